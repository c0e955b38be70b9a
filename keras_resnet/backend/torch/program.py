"""PyTorch: a program that runs the operations of a traced graph.

The operations and their order stay the same, with five exceptions: some results
overwrite tensors that nothing else reads, permutations move and cancel,
constants are computed once, moving statistics are updated together, and so are
weights and gradients converted under mixed precision.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._subclasses.fake_tensor import unset_fake_temporarily

_aten = torch.ops.aten
_CHANNELS_LAST, _CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_IN_PLACE = {
    _aten.relu.default: _aten.relu_.default,
    _aten.add.Tensor: _aten.add_.Tensor,
}
# The operations that compute moving statistics, from the last to the first, and
# those that do the same for lists of tensors. A number is their last argument.
_STATISTICS = {
    _aten.lerp.Scalar: _aten._foreach_lerp.Scalar,
    _aten.sub.Tensor: _aten._foreach_sub.Scalar,
    _aten.pow.Tensor_Scalar: _aten._foreach_pow.Scalar,
}
# Operations whose results share no memory with their inputs. The backward graph
# reads such a result only if it is an output of the forward graph.
_FRESH = {
    _aten.add.Tensor,
    _aten.add_.Tensor,
    _aten.convolution.default,
    _aten.convolution_backward.default,
    _aten.cudnn_batch_norm.default,
    _aten.cudnn_batch_norm_backward.default,
    _aten._native_batch_norm_legit.no_stats,
    _aten._native_batch_norm_legit_no_training.default,
    _aten.native_batch_norm.default,
    _aten.native_batch_norm_backward.default,
    _aten.threshold_backward.default,
}


def training_program(
    graph_module: torch.fx.GraphModule, example_inputs: Sequence[Any]
) -> Callable:
    """Return a function that runs a forward or backward graph of training."""
    graph = graph_module.graph
    _forget_copies(graph)
    _fold_constants(graph)
    _average_together(graph)
    _convert_together(graph)
    return _program(graph)


def inference_program(
    graph_module: torch.fx.GraphModule, example_inputs: Sequence[Any]
) -> Callable:
    """Return a function that runs a graph without gradients."""
    graph = graph_module.graph
    _forget_copies(graph)
    _fold_constants(graph)
    _stay_channels_first(graph)
    _forget_copies(graph)
    _convert_together(graph)
    return _program(graph)


def _program(graph):
    for node in graph.nodes:
        _write_in_place(node)
    graph.owning_module.recompile()
    return make_boxed_func(graph.owning_module.forward)


def _forget_copies(graph):
    """Remove operations that return their input."""
    for node in graph.nodes:
        # The program runs without autograd, so `detach` has no effect.
        if node.target is _aten.detach.default:
            node.replace_all_uses_with(node.args[0])
        # A layer's first permutation reverts the last one of the layer before.
        elif _is_permuted(node, _CHANNELS_FIRST):
            before = node.args[0]
            if _is_permuted(before, _CHANNELS_LAST):
                node.replace_all_uses_with(before.args[0])
    graph.eliminate_dead_code()


def _fold_constants(graph):
    """Compute operations once if they depend only on constants.

    Constants are tensors that are not variables, such as the statistics of
    `keras.layers.Normalization`, and numbers. Numbers are on the CPU, and
    otherwise each step copies them to an accelerator.
    """
    module = graph.owning_module
    values = {}
    for node in list(graph.nodes):
        inputs = node.all_input_nodes
        if node.op == "get_attr":
            values[node] = operator.attrgetter(node.target)(module)
        elif inputs and _is_pure(node) and all(x in values for x in inputs):
            args, kwargs = torch.fx.map_arg(
                (node.args, node.kwargs), values.__getitem__
            )
            with unset_fake_temporarily(), torch.no_grad():
                values[node] = node.target(*args, **kwargs)
            if isinstance(values[node], torch.Tensor):
                name = f"_folded{len(values)}"
                module.register_buffer(name, values[node])
                with graph.inserting_before(node):
                    constant = graph.get_attr(name)
                constant.meta = node.meta
                node.replace_all_uses_with(constant)
                values[constant] = values[node]
    graph.eliminate_dead_code()


def _average_together(graph):
    """Update all moving statistics by a few operations, not a few for each.

    A statistic that nothing else in the graph reads can wait for the others.
    """
    *_, end = graph.nodes
    readers = [end]
    # From the last operation of a statistic to its first.
    for target, together in _STATISTICS.items():
        groups = {}
        for node in graph.nodes:
            if node.target is target and set(node.users) <= set(readers):
                *tensors, number = node.args
                # A layer may also subtract a tensor, or a multiple.
                if not isinstance(number, torch.fx.Node) and not node.kwargs:
                    groups.setdefault(number, []).append((node, tensors))
        readers = []
        for number, group in groups.items():
            nodes, tensors = zip(*group, strict=True)
            lists = [list(values) for values in zip(*tensors, strict=True)]
            with graph.inserting_before(end):
                results = graph.call_function(together, (*lists, number))
                for i, node in enumerate(nodes):
                    result = graph.call_function(operator.getitem, (results, i))
                    result.meta = node.meta
                    node.replace_all_uses_with(result)
                    graph.erase_node(node)
            readers.append(results)
        end = readers[0] if readers else end


def _convert_together(graph):
    """Convert all weights by one operation, and all gradients by another."""
    *_, output = graph.nodes
    groups = {}
    for node in graph.nodes:
        if _changes_dtype_alone(node):
            value, dtype = node.args[0], node.kwargs["dtype"]
            if value.op == "placeholder":
                groups.setdefault((dtype, None), []).append(node)
            elif set(node.users) == {output}:
                groups.setdefault((dtype, output), []).append(node)
    for (dtype, end), nodes in groups.items():
        values = [node.args[0] for node in nodes]
        with graph.inserting_before(end or nodes[0]):
            copies = [
                graph.call_function(
                    _aten.empty_like.default, (value,), {"dtype": dtype}
                )
                for value in values
            ]
            graph.call_function(_aten._foreach_copy_.default, (copies, values))
        for node, copy in zip(nodes, copies, strict=True):
            copy.meta = node.meta
            node.replace_all_uses_with(copy)
            graph.erase_node(node)


def _changes_dtype_alone(node):
    """Return whether a node copies a tensor in its layout and on its device."""
    if node.target is not _aten._to_copy.default:
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]
    return (
        before.dtype != after.dtype
        and before.device == after.device
        and before.stride() == after.stride()
    )


def _is_pure(node):
    """Return whether a node is an operation without randomness."""
    tags = getattr(node.target, "tags", ())
    return (
        node.op == "call_function"
        and torch.Tag.nondeterministic_seeded not in tags
    )


def _is_permuted(node, order):
    return (
        isinstance(node, torch.fx.Node)
        and node.target is _aten.permute.default
        and list(node.args[1]) == order
    )


def _stay_channels_first(graph):
    """Move permutations after elementwise operations, where they can cancel."""
    for node in graph.nodes:
        if node.target not in _IN_PLACE or node.kwargs:
            continue
        operands = node.args
        if not any(_is_permuted(x, _CHANNELS_LAST) for x in operands):
            continue
        value = node.meta["val"]
        if any(
            not isinstance(x, torch.fx.Node)
            or x.meta["val"].shape != value.shape
            for x in operands
        ):
            continue
        with graph.inserting_before(node):
            first = [
                x.args[0]
                if _is_permuted(x, _CHANNELS_LAST)
                else _call(graph, _aten.permute.default, x, _CHANNELS_FIRST)
                for x in operands
            ]
            result = _call(graph, node.target, *first)
            back = _call(graph, _aten.permute.default, result, _CHANNELS_LAST)
        node.replace_all_uses_with(back)
        graph.erase_node(node)


def _call(graph, target, *args):
    """Add a call to the graph, with the metadata of a traced call."""
    node = graph.call_function(target, args)
    values = [
        x.meta["val"] if isinstance(x, torch.fx.Node) else x for x in args
    ]
    node.meta["val"] = target(*values)
    return node


def _write_in_place(node):
    """Let an operation overwrite a tensor that no other operation reads.

    This saves most allocations of memory, which are slow on a CPU.
    """
    in_place = _IN_PLACE.get(node.target)
    if in_place is None or node.kwargs:
        return
    result = node.meta["val"]
    operands = list(node.args[: 2 if node.target is _aten.add.Tensor else 1])
    for i, operand in enumerate(operands):
        if not isinstance(operand, torch.fx.Node) or not _is_fresh(operand):
            continue
        value = operand.meta["val"]
        if (
            value.shape != result.shape
            or value.dtype != result.dtype
            # The next operation may be a view that requires these strides.
            or value.stride() != result.stride()
        ):
            continue
        others = operands[:i] + operands[i + 1 :]
        node.args = (operand, *others, *node.args[len(operands) :])
        node.target = in_place
        return


def _is_fresh(node):
    """Return whether a tensor is new and has one reader."""
    while len(node.users) == 1:
        if node.target in _FRESH:
            return True
        if node.target is operator.getitem:
            return node.args[0].target in _FRESH
        if node.target is not _aten.permute.default:
            return False
        node = node.args[0]
    return False
