"""PyTorch: the whole training step as one CUDA graph.

A training step has hundreds of kernels, and the host needs more time to launch
a short kernel than the GPU to run it. A CUDA graph records the kernels of a
step, and the host launches all of them at once, without Python. They read and
write the same memory each time.
"""

import contextlib
import gc
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import torch
from keras import tree

from keras_resnet.backend import parallel
from keras_resnet.backend.torch import numbers, waits
from keras_resnet.types import Schedule, Tensor

# Successive steps of one kind before one is recorded. The third is traced. The
# fourth runs on the recording's stream, where libraries allocate workspaces.
WARM_UP_STEPS = 4


class Recorder:
    """The kernels of a function without arguments, as a CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, function: Callable) -> Any:
        """Run a function on the recording's stream, and return its result."""
        usual = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            result = function()
        usual.wait_stream(self._stream)
        return result

    def record(self, function: Callable) -> Any:
        """Return the result of a function, without running its kernels."""
        # PyTorch frees unused memory before a recording, but not that of
        # objects which refer to one another.
        gc.collect()
        usual, cause = torch.cuda.current_stream(self._device), None
        with torch.cuda.device(self._device):
            try:
                with torch.cuda.graph(
                    self._graph,
                    pool=self._pool,
                    stream=self._stream,
                    # Other threads may use the GPU, for example to pin batches.
                    capture_error_mode="thread_local",
                ):
                    try:
                        return function()
                    except Exception as error:
                        cause = error
                        raise
            except Exception as error:
                if error is not cause:
                    # PyTorch could not end the recording, and left stream and
                    # allocator as they are during it.
                    torch.cuda.set_stream(usual)
                    with contextlib.suppress(RuntimeError):
                        where = usual.device_index, self._pool
                        torch._C._cuda_endAllocateToPool(*where)
                        torch._C._cuda_releasePool(*where)
                raise cause or error from None

    def replay(self) -> None:
        """Run the kernels, which overwrite the tensors of the result."""
        self._graph.replay()


class TrainingStep:
    """A training step, recorded once and replayed if possible.

    A recording is valid for one kind of batch, while all variables keep their
    memory. Other batches, such as a smaller last one, run without it.

    Args:
        model: A `graph.Model`.
        replay: Its `graph.Replay`. Only steps with a trace are recorded.
        step: Callable, Keras's `train_function` of the model.
    """

    def __init__(self, model: Any, replay: Any, step: Callable) -> None:
        self._model = model
        self._replay = replay
        self._step = step
        self._rate = _Rate(model.optimizer)
        self._variables: list[keras.Variable] | None = None
        self._refused = False
        self._last, self._times = None, 0
        self._recorder: Recorder | None = None
        self._recording: _Recording | None = None

    def __call__(self, data: Any) -> dict[str, Any]:
        """Train with a batch, and return the logs."""
        model = self._model
        if self._variables is None:
            self._variables = [
                *(*model.variables, *model.optimizer.variables),
                *model.metrics_variables,
            ]
            if reason := _reason_against(model):
                self._refuse(reason)
        batch = tree.map_structure(self._to_device, data[0])
        if not any(v.trainable for v in self._variables):
            # Keras then does not increment `iterations`.
            return self._step([batch])
        with self._rate.on_device():
            return self._run(batch)

    def _run(self, batch):
        kind = None if self._refused else self._kind(batch)
        again = kind is not None and kind == self._last
        self._last, self._times = kind, self._times + 1 if again else 1
        if self._recording and kind == self._recording.kind:
            return self._recording(batch)
        if kind is None or self._times < WARM_UP_STEPS:
            return self._step([batch])
        if self._times == WARM_UP_STEPS:
            # This frees the memory of the recording for another kind.
            self._recording, self._recorder = None, Recorder(self._device())
            # Now, because a recording that fails is hard to undo.
            with waits.Watch(self._device()) as watch:
                logs = self._recorder.warm_up(lambda: self._step([batch]))
            if watch.operation:
                self._refuse(
                    "its loss, its optimizer or a metric reads a value or "
                    f"sends one, by {watch.operation}, so the host waits"
                )
            return logs
        try:
            self._recording = self._record(kind, batch)
        except Exception as error:
            self._refuse(
                "a CUDA graph cannot record its step: "
                f"{type(error).__name__}: " + str(error).partition("\n")[0]
            )
            return self._step([batch])
        return self._recording(batch)

    def _record(self, kind, batch):
        buffers = tree.map_structure(_copy, batch)
        logs = self._recorder.record(lambda: self._step([buffers]))
        if self._kind(buffers) != kind:
            raise RuntimeError("its variables or its batches have moved")
        # References that keep these tensors alive, because kernels read them.
        read = [*numbers.made(), *self._replay.traces()]
        return _Recording(kind, buffers, self._recorder, logs, read)

    def _kind(self, batch):
        """Return the kind of a batch, or `None` if it cannot be recorded."""
        values = [v._value for v in self._variables]
        if not all(
            leaf is None or type(leaf) is torch.Tensor
            for leaf in tree.flatten(batch)
        ) or any(
            # A recording would omit the user's hooks.
            v._backward_hooks or v._post_accumulate_grad_hooks
            for v in values
        ):
            return None
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        kind = self._replay.kind(images, True)
        return kind and (
            kind,
            # With its structure, because a part may be left out.
            tree.map_structure(_layout, batch),
            tuple(v.data_ptr() for v in values),
        )

    def _device(self):
        return self._variables[0]._value.device

    def _to_device(self, value):
        if isinstance(value, np.ndarray):
            value = keras.ops.convert_to_tensor(value)
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self._device(), non_blocking=True)

    def _refuse(self, reason):
        self._refused = True
        # They reserve memory.
        self._recording = self._recorder = None
        # Only the first process warns.
        if parallel.processes == 1 or torch.distributed.get_rank() == 0:
            warnings.warn(
                f"{self._model.name} trains without a CUDA graph, somewhat "
                f"slower: {reason}",
                stacklevel=2,
            )


class _Recording:
    """Recorded step, for batches of one kind."""

    def __init__(self, kind, buffers, recorder, logs, read):
        self.kind = kind
        self._buffers = tree.flatten(buffers)
        self._recorder = recorder
        self._logs = logs
        self._read = read

    @torch.no_grad()
    def __call__(self, batch: Any) -> dict[str, Any]:
        for buffer, value in zip(
            self._buffers, tree.flatten(batch), strict=True
        ):
            if buffer is not None:
                buffer.copy_(value)
        self._recorder.replay()
        # Copied, because a callback may read them after the next step.
        return tree.map_structure(_copy, self._logs)


class _Rate:
    """Learning rate that is computed on the host and stored on the device.

    Steps without recording use it too, because a GPU may round a schedule
    differently, and a resumed training begins with such steps.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        self._optimizer = optimizer
        self._tensor: Tensor | None = None
        self._value: float | None = None
        self._steps, self._version = 0, None

    @contextlib.contextmanager
    def on_device(self) -> Iterator[None]:
        """Return a context of one step, in which the schedule is a constant."""
        attributes = vars(self._optimizer)
        schedule = attributes["_learning_rate"]
        if isinstance(schedule, keras.Variable):
            yield
            return
        counter = self._optimizer._iterations
        if counter._value._version != self._version:
            # Set from outside, for example when a training is resumed.
            self._steps = int(counter._value)
        self._compute(schedule, counter)
        self._version = None
        attributes["_learning_rate"] = lambda: self._tensor
        try:
            yield
        finally:
            attributes["_learning_rate"] = schedule
        self._steps, self._version = self._steps + 1, counter._value._version

    @torch.no_grad()
    def _compute(self, schedule, counter):
        with keras.device("cpu"):
            rate = keras.ops.convert_to_tensor(
                schedule(
                    keras.ops.convert_to_tensor(self._steps, counter.dtype)
                )
                if isinstance(schedule, Schedule)
                else schedule()
            )
        if self._tensor is None:
            self._tensor = torch.empty_like(rate, device=counter._value.device)
        if float(rate) != self._value:
            self._value = float(rate)
            self._tensor.fill_(self._value)


def _layout(leaf):
    return leaf is not None and (leaf.shape, leaf.stride(), leaf.dtype)


def _copy(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def _reason_against(model):
    """Return the reason against recording a model's step, or `None`."""
    optimizer = model.optimizer
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    reasons = {
        "several processes train it": parallel.processes > 1,
        "it accumulates gradients": optimizer.gradient_accumulation_steps,
        "its optimizer scales the loss": scales,
        "averages overwrite its weights": optimizer.ema_overwrite_frequency,
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    metrics = model._compile_metrics
    parts = [
        *(optimizer, getattr(model._compile_loss, "_user_loss", None)),
        getattr(metrics, "_user_metrics", None),
        getattr(metrics, "_user_weighted_metrics", None),
        *((v.regularizer, v.constraint) for v in model.trainable_variables),
    ]
    for part in tree.flatten(parts):
        # Keras wraps functions that are losses or metrics.
        for code in (part, getattr(part, "fn", getattr(part, "_fn", None))):
            if not isinstance(code, types.FunctionType):
                code = type(code)
            package = code.__module__.partition(".")[0]
            known = package in ("builtins", "keras", "keras_resnet")
            if not vars(code).get("traceable", known):
                return (
                    f"{code.__qualname__} may do more than compute tensors, "
                    "and a replay would skip it. Give it the attribute "
                    "`traceable = True` if it does nothing else"
                )
    return None
