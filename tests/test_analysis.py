"""The analyses against a network in NumPy, and against what must hold."""

import itertools

import keras
import numpy as np
import pytest
from networks import ADAPTATIONS, draw_weights, small, values
from numpy_network import NumpyNetwork

from keras_resnet import analysis, fold_batch_norm
from keras_resnet.analysis import gradients, landscape, lesions, network

CLASSES = 5
# Residual nets by shortcut, and the plain twin.
KINDS = ("A", "B", "C", "plain")


def _net(kind="A", depths=(2, 2), activation=None, **kwargs):
    shortcut = "A" if kind == "plain" else kind
    model = small(
        depths,
        size=(8, 8),
        classes=CLASSES,
        classifier_activation=activation,
        shortcut=shortcut,
        residual=kind != "plain",
        **kwargs,
    )
    draw_weights(model, seed=0)
    return model


def _data(n=12, seed=1):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, 8, 8, 3)).astype("float32")
    return images, rng.integers(CLASSES, size=n)


def _compiled(model, logits=True):
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=logits),
        metrics=["accuracy"],
    )
    return model


# Layer responses.


@pytest.mark.parametrize("kind", KINDS)
def test_responses_are_those_of_a_forward_pass_by_hand(kind):
    model = _net(kind)
    images, _ = _data(10)
    actual = analysis.layer_responses(model, images, batch_size=4)
    _, expected = NumpyNetwork(model)(images)
    assert actual.names == tuple(expected)
    assert len(actual.names) == 9
    expected = [x.std() for x in expected.values()]
    np.testing.assert_allclose(actual.std, expected, rtol=1e-4)
    folded = analysis.layer_responses(fold_batch_norm(model), images)
    assert folded.names == actual.names
    np.testing.assert_allclose(folded.std, expected, rtol=1e-4)


def test_only_3x3_layers_respond_and_none_before_the_network():
    model = _net("B", bottleneck=True)
    # A layer that prepares images is no layer of the network.
    scaled = keras.layers.Rescaling(0.5)(keras.Input((8, 8, 3)))
    behind = _net("B", bottleneck=True, input_tensor=scaled, input_shape=None)
    images, _ = _data(4)
    actual = analysis.layer_responses(behind, 2 * images)
    _, expected = NumpyNetwork(model)(images)
    names = ["stem_conv", *(n for n in expected if n.endswith("conv2"))]
    assert actual.names == tuple(names)
    expected = [expected[n].std() for n in names]
    np.testing.assert_allclose(actual.std, expected, rtol=1e-4)


# Gradient flow.


@pytest.mark.parametrize("kind", ["B", "plain"])
def test_gradient_norms_are_slopes_of_the_loss(kind):
    model = _net(kind)
    images, labels = _data(8)
    before = values(model)
    function = gradients.GradientFunction(model)
    norms = function(images, labels)
    reference = NumpyNetwork(model)
    order = {"stem_conv": "", "head": "z"}
    assert norms.names == tuple(
        sorted(reference.kernels, key=lambda name: order.get(name, name))
    )
    h = 1e-5
    for name, norm, gradient in zip(
        norms.names,
        norms.norms,
        function.gradients(images, labels),
        strict=True,
    ):
        # The slope of the loss along the gradient is the gradient's norm.
        kernel = reference.kernels[name]
        step = h * gradient / np.linalg.norm(gradient)
        kernel += step
        above = reference.loss(images, labels, training=True)
        kernel -= 2 * step
        below = reference.loss(images, labels, training=True)
        kernel += step
        assert norm == pytest.approx((above - below) / (2 * h), rel=1e-3), name
    np.testing.assert_equal(values(model), before)


def test_probabilities_have_the_gradients_of_their_logits():
    images, labels = _data(8)
    one = analysis.gradient_norms(_net("A"), images, labels)
    two = analysis.gradient_norms(
        _net("A", activation="softmax"), images, labels
    )
    np.testing.assert_allclose(one.norms, two.norms, rtol=1e-3)


def _fit_with_flow(model, path, every, batch_size):
    """Record the gradients of one epoch of four or two steps."""
    images, labels = _data(16)
    flow = analysis.GradientFlow(images, labels, every, path)
    model.fit(
        images,
        labels,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[flow],
    )


def test_gradient_flow_is_recorded_in_training_and_resumed(tmp_path):
    images, labels = _data(16)
    path = tmp_path / "gradients.csv"
    model = _compiled(_net("A", depths=(1, 1)))
    first = analysis.gradient_norms(model, images, labels)
    _fit_with_flow(model, path, 3, 4)
    after_four = [w.copy() for w in model.get_weights()]
    _fit_with_flow(model, path, 3, 4)
    steps, names, norms = analysis.read_gradient_flow(path)
    assert steps.tolist() == [0, 3, 4, 6, 8]
    assert names == first.names
    np.testing.assert_allclose(norms[0], first.norms, rtol=1e-5)
    last = analysis.gradient_norms(model, images, labels)
    np.testing.assert_allclose(norms[-1], last.norms, rtol=1e-5)

    def go_on_from_step_4():
        model.optimizer.iterations.assign(4)
        model.set_weights(after_four)
        _fit_with_flow(model, path, 3, 4)
        return analysis.read_gradient_flow(path)

    # As a run that stopped after step 8.
    again, _, repeated = go_on_from_step_4()
    assert again.tolist() == [0, 3, 4, 6, 8]
    np.testing.assert_allclose(repeated, norms, rtol=1e-3)
    # As a run that was killed after step 4, no multiple of 3, was written.
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:3]), "utf-8")
    assert go_on_from_step_4()[0].tolist() == [0, 3, 6, 8]


def test_gradient_flow_keeps_to_one_training(tmp_path):
    path = tmp_path / "gradients.csv"

    def fit(kind="A", depths=(1, 1)):
        _fit_with_flow(_compiled(_net(kind, depths)), path, 1, 8)
        return np.loadtxt(path, delimiter=",", skiprows=1)

    rows, text = fit(), path.read_text("utf-8")
    # Other gradients of the same layers, and other layers.
    for other in (("plain", (1, 1)), ("A", (2, 1))):
        with pytest.raises(ValueError, match=r"gradients\.csv.*another train"):
            fit(*other)
        assert path.read_text("utf-8") == text
    # Begun again.
    np.testing.assert_allclose(fit(), rows, rtol=1e-3)


@pytest.mark.parametrize("how", ["accumulated", "several in an execution"])
def test_gradient_flow_counts_steps_of_the_optimizer(tmp_path, how):
    images, labels = _data(16)
    accumulated = how == "accumulated"
    if not accumulated and keras.backend.backend() == "torch":
        pytest.skip("PyTorch executes one step at a time")
    model = _net("A", depths=(1, 1))
    model.compile(
        keras.optimizers.SGD(
            0.01, gradient_accumulation_steps=2 if accumulated else None
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=1 if accumulated else 4,
    )
    path = tmp_path / "gradients.csv"
    flow = analysis.GradientFlow(images, labels, 2, path)
    model.fit(images, labels, batch_size=2, verbose=0, callbacks=[flow])
    expected = [0, 2, 4] if accumulated else [0, 4, 8]
    assert analysis.read_gradient_flow(path)[0].tolist() == expected
    assert int(model.optimizer.iterations) == expected[-1]


# The identity property.


def _outputs(model, images, training=False):
    run = network.compiled(model, lambda x: network.forward(model, x, training))
    return run(images)


@pytest.mark.parametrize("kind", ["A", "B", "C"])
def test_a_grown_network_computes_the_same(kind):
    model = _net(kind)
    model.preprocessing = "imagenet"
    images, _ = _data(8)
    grown = analysis.grow(model, (1, 2))
    assert grown.name == f"{model.name}_grown"
    assert grown.preprocessing == model.preprocessing
    names = [x.name for x in grown.layers if "_block" in x.name]
    expected = [f"stage{s}_block{b}" for s in (1, 2) for b in (1, 2, 3, 4)]
    expected.remove("stage1_block4")
    assert names == expected
    for training in (False, True):
        outputs = [_outputs(m, images, training) for m in (model, grown)]
        # XLA fuses the deeper graph in another way.
        np.testing.assert_allclose(*outputs, atol=1e-6)


def test_a_grown_network_keeps_its_dilation():
    model = _net("B", depths=(1, 1), output_stride=1)
    images, _ = _data(8)
    grown = analysis.grow(model, 1)
    assert grown.get_layer("stage2_block2").dilation == (2, 2)
    outputs = [_outputs(m, images) for m in (model, grown)]
    np.testing.assert_allclose(*outputs, atol=1e-6)


def test_a_grown_network_trains_on():
    model = _net("B")
    images, labels = _data(16)
    grown = _compiled(analysis.grow(model, 1))
    new = grown.get_layer("stage1_block3")
    before = values(new)
    losses = grown.fit(
        images, labels, batch_size=16, epochs=5, shuffle=False, verbose=0
    ).history["loss"]
    assert losses[0] == pytest.approx(
        NumpyNetwork(model).loss(images, labels, training=True), rel=1e-4
    )
    assert losses[-1] < losses[0]
    # All that is new takes part.
    for variable, then, now in zip(
        new.variables, before, values(new), strict=True
    ):
        assert (now != then).any(), variable.path


def test_a_plain_network_grows_by_identities_in_inference():
    images, _ = _data(8)
    plain = analysis.identity_property(_net("plain"), images, added=(1, 3))
    residual = analysis.identity_property(_net("A"), images, added=(1, 3))
    assert plain.added.tolist() == residual.added.tolist() == [2, 6]
    assert (residual.zero < 1e-6).all()
    assert (plain.zero < 1e-4).all()
    # The control: blocks with random weights do change the outputs.
    assert (residual.random > 0.01).all()
    assert (plain.random > 0.01).all()


# Lesions.


def _with_labels(model, images):
    """The network in NumPy, and labels of which it knows two thirds.

    Sets the model's biases, so that no class is preferred.
    """
    bias = model.get_layer("head").bias
    bias.assign_sub(NumpyNetwork(model)(images)[0].mean(0))
    reference = NumpyNetwork(model)
    labels = reference(images)[0].argmax(1)
    labels[::3] = (labels[::3] + 1) % CLASSES
    return reference, labels


@pytest.mark.parametrize("kind", KINDS)
def test_deleting_a_block_is_building_the_network_without_it(kind):
    model = _net(kind)
    images, _ = _data(60)
    reference, labels = _with_labels(model, images)
    actual = analysis.delete_each_block(model, images, labels, batch_size=20)
    assert actual.baseline == pytest.approx(1 / 3)
    blocks = ["stage1_block1", "stage1_block2", "stage2_block2"]
    if kind != "plain":
        blocks.insert(2, "stage2_block1")
    assert actual.names == tuple(blocks)
    expected = [reference.error(images, labels, deleted=[b]) for b in blocks]
    np.testing.assert_allclose(actual.error, expected)
    assert len({actual.baseline, *expected}) > 3
    net = analysis.LesionedNetwork(model, images, labels)
    two = ["stage1_block1", "stage2_block2"]
    assert net.error(two) == pytest.approx(
        reference.error(images, labels, deleted=two)
    )


@pytest.mark.parametrize("kind", ["A", "C", "plain"])
def test_swapping_blocks_is_swapping_their_weights(kind):
    model = _net(kind, depths=(3, 3))
    images, _ = _data(60)
    reference, labels = _with_labels(model, images)
    net = analysis.LesionedNetwork(model, images, labels)
    assert sorted(net.swappable()) == [(1, 0), (2, 0), (2, 1), (5, 4)]
    for order in ([2, 0, 1, 3, 4, 5], [0, 1, 2, 3, 5, 4]):
        expected = reference.error(images, labels, order=order)
        assert expected != pytest.approx(1 / 3)
        assert net.error(order=order) == pytest.approx(expected)
    assert net.error() == pytest.approx(1 / 3)


def test_lesion_studies_are_functions_of_their_seed():
    model = _net("B", depths=(3, 3))
    images, _ = _data(60)
    _, labels = _with_labels(model, images)
    one, again, other = (
        analysis.delete_blocks(
            model, images, labels, (0, 2, 6), trials=3, seed=seed
        )
        for seed in (0, 0, 1)
    )
    assert one.error.shape == (3, 3)
    np.testing.assert_array_equal(one.error, again.error)
    assert (one.error[1] != other.error[1]).any()
    assert one.reshaping[[0, 2]].tolist() == [[False] * 3, [True] * 3]
    # Nothing deleted, and everything: no choice.
    assert np.ptp(one.error[0]) == np.ptp(one.error[2]) == 0
    swapped = analysis.swap_blocks(model, images, labels, (0, 1), trials=3)
    np.testing.assert_array_equal(swapped.error[0], one.error[0])
    assert (swapped.correlation[0] == 1).all()
    assert (swapped.correlation[1] < 1).all()


def test_kendall_correlation_counts_pairs():
    for order in itertools.permutations(range(4)):
        pairs = list(itertools.combinations(order, 2))
        agreeing = sum(a < b for a, b in pairs)
        expected = (2 * agreeing - len(pairs)) / len(pairs)
        assert analysis.kendall_correlation(order) == pytest.approx(expected)


def test_path_lengths_count_paths():
    lengths, share = analysis.path_lengths(5)
    paths = [sum(path) for path in itertools.product((0, 1), repeat=5)]
    assert lengths.tolist() == list(range(6))
    np.testing.assert_allclose(
        share, [paths.count(k) / len(paths) for k in lengths]
    )
    # 54 blocks of ResNet-110, and far more than floats can count.
    assert analysis.path_lengths(54)[1][19:36].sum() > 0.95
    for n in (2000, np.int64(100)):
        assert analysis.path_lengths(n)[1].sum() == pytest.approx(1)


def test_all_paths_together_carry_the_whole_gradient():
    model = _net("B")
    images, labels = _data(6)
    gradient = lesions._path_gradient(model, images, labels)
    paths = list(itertools.product((0, 1), repeat=4))
    total = sum(gradient(path) for path in paths)
    reference = NumpyNetwork(model)
    rng = np.random.default_rng(0)
    for _ in range(4):
        # In double precision: a step of single precision would be noise.
        direction = rng.normal(size=images.shape)
        above, below = (
            reference.loss(images + h * direction, labels)
            for h in (1e-6, -1e-6)
        )
        assert (total * direction).sum() == pytest.approx(
            (above - below) / 2e-6, rel=1e-3, abs=1e-6
        )
    actual = analysis.gradient_by_path_length(
        model, images, labels, lengths=(0, 4), samples=2
    )
    assert actual.norms.shape == (2, 2)
    for length, path in ((0, paths[0]), (1, paths[-1])):
        np.testing.assert_allclose(
            actual.norms[length], np.linalg.norm(gradient(path)), rtol=1e-5
        )


# Loss landscape.


def test_directions_have_the_norms_of_the_filters():
    model = _net("B")
    direction = analysis.random_direction(model, seed=3)
    for variable, actual in zip(
        model.trainable_variables, direction, strict=True
    ):
        weights = keras.ops.convert_to_numpy(variable)
        assert actual.shape == weights.shape
        if variable.path.endswith("kernel"):
            norms = [
                np.linalg.norm(x.reshape(-1, x.shape[-1]), axis=0)
                for x in (actual, weights)
            ]
            np.testing.assert_allclose(*norms, rtol=1e-5)
        else:
            assert not actual.any()
    again, other = (analysis.random_direction(model, seed=s) for s in (3, 4))
    assert (again[0] == direction[0]).all()
    assert (other[0] != direction[0]).all()


@pytest.mark.parametrize(
    ("kind", "activation"), [("A", None), ("plain", "softmax")]
)
def test_the_origin_is_the_evaluated_model(kind, activation):
    model = _compiled(_net(kind, activation=activation), activation is None)
    images, labels = _data(30)
    directions = [analysis.random_direction(model, seed) for seed in (0, 1)]
    before = values(model)
    axes = [(-0.5, 0, 0.5), (0, 1)]
    actual = analysis.loss_landscape(
        model, images, labels, directions, axes, batch_size=20
    )
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert actual.loss.shape == actual.error.shape == (3, 2)
    assert actual.loss[1, 0] == pytest.approx(loss, rel=1e-4)
    assert actual.error[1, 0] == pytest.approx(1 - accuracy, abs=1e-6)
    np.testing.assert_equal(values(model), before)
    # Another point, by weights that are really moved.
    for variable, one, two in zip(
        model.trainable_variables, *directions, strict=True
    ):
        variable.assign_add(-0.5 * one + 1.0 * two)
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert actual.loss[0, 1] == pytest.approx(loss, rel=1e-4)
    assert actual.error[0, 1] == pytest.approx(1 - accuracy, abs=1e-6)


def test_statistics_of_the_batch_are_those_of_training():
    model = _net("B")
    images, labels = _data(8)
    direction = analysis.random_direction(model)
    actual = analysis.loss_landscape(
        model, images, labels, [direction], [(0.0,)], statistics="batch"
    )
    expected = NumpyNetwork(model).loss(images, labels, training=True)
    assert actual.loss[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("statistics", landscape.STATISTICS)
def test_points_at_a_time_do_not_matter(statistics):
    model = _net("A")
    images, labels = _data(8)
    directions = [analysis.random_direction(model, seed) for seed in (0, 1)]

    def run(n):
        return analysis.loss_landscape(
            model,
            images,
            labels,
            directions,
            [(-1, 0), (-0.5, 0.5)],
            statistics=statistics,
            points_at_a_time=n,
        )

    if keras.backend.backend() == "tensorflow":
        with pytest.raises(ValueError, match="one kernel at a time.*=3"):
            run(3)
        return
    one, three = run(1), run(3)
    np.testing.assert_allclose(one.loss, three.loss, rtol=1e-4)
    np.testing.assert_array_equal(one.error, three.error)


def test_a_landscape_goes_on_where_it_stopped(tmp_path, monkeypatch):
    model = _net("A")
    images, labels = _data(8)
    directions = [analysis.random_direction(model)]
    path = tmp_path / "line.npz"
    evaluated = []
    original = landscape._evaluation

    def evaluation(*args):
        evaluate = original(*args)

        def counting(points):
            if len(evaluated) == 2:
                raise KeyboardInterrupt
            evaluated.append(points)
            return evaluate(points)

        return counting

    def run():
        return analysis.loss_landscape(
            model,
            images,
            labels,
            directions,
            [(-1, -0.5, 0, 1)],
            points_at_a_time=1,
            path=path,
        )

    monkeypatch.setattr(landscape, "_evaluation", evaluation)
    with pytest.raises(KeyboardInterrupt):
        run()
    missing = np.isnan(analysis.read_landscape(path).loss)
    assert missing.tolist() == [False, False, True, True]
    evaluated.clear()
    whole = run()
    assert np.concatenate(evaluated)[:, 0].tolist() == [0, 1]
    stored = analysis.read_landscape(path)
    np.testing.assert_array_equal(stored.loss, whole.loss)
    np.testing.assert_array_equal(stored.error, whole.error)
    np.testing.assert_array_equal(stored.axes[0], [-1, -0.5, 0, 1])
    # A network is told by what it computes, not by its name.
    model = _net("A", name="another_name")
    np.testing.assert_array_equal(run().loss, whole.loss)
    model = _net("plain")
    with pytest.raises(ValueError, match="another model"):
        run()
    model = _net("A")
    model.get_layer("head").bias.assign_add(np.ones(CLASSES))
    with pytest.raises(ValueError, match="another model"):
        run()


def _other_model():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.layers.Conv2D(4, 3)(image))


def _lesioned():
    return analysis.LesionedNetwork(_net("plain", (1, 1)), *_data(4))


def _landscape(directions=1, axes=((0,),), first=0, **kwargs):
    model = _net("A")
    moves = [analysis.random_direction(model)[first:]] * directions
    return analysis.loss_landscape(model, *_data(2), moves, axes, **kwargs)


IMAGES, LABELS = _data(4)
# By the words of their errors.
REFUSED = {
    "needs a network of this package": lambda: analysis.layer_responses(
        _other_model(), IMAGES
    ),
    "needs a classifier": lambda: analysis.gradient_norms(
        _net("A", include_top=False), IMAGES, LABELS
    ),
    "empty": lambda: analysis.layer_responses(_net("A"), IMAGES[:0]),
    "batch_size=0": lambda: analysis.layer_responses(_net("A"), IMAGES, 0),
    r"2 stages. Received: added=\(1,\)": lambda: analysis.grow(_net("B"), (1,)),
    "is folded": lambda: analysis.grow(fold_batch_norm(_net("B")), 1),
    "cannot be made the identity": lambda: analysis.grow(
        _net("plain", bottleneck=True), 1
    ),
    "stage2_block1.*changes the shape": lambda: _lesioned().error(
        ["stage2_block1"]
    ),
    "no block 'x'.*stage1_block1": lambda: _lesioned().error(["x"]),
    "no block -1.*0 to 1": lambda: _lesioned().error([-1]),
    "cannot be in the place": lambda: _lesioned().error(order=[1, 0]),
    "each block once": lambda: _lesioned().error(order=[0, 0]),
    "no two blocks of the same shapes": lambda: analysis.swap_blocks(
        _net("plain", (1, 1)), IMAGES, LABELS, (1,)
    ),
    "2 blocks cannot be deleted": lambda: analysis.delete_blocks(
        _net("plain", (1, 1)), IMAGES, LABELS, (2,)
    ),
    "4 images, 3 labels": lambda: analysis.LesionedNetwork(
        _net("A"), IMAGES, LABELS[:3]
    ),
    "one path, through all of its 4": lambda: analysis.gradient_by_path_length(
        _net("plain"), IMAGES, LABELS
    ),
    "from 0 to 4": lambda: analysis.gradient_by_path_length(
        _net("A"), IMAGES, LABELS, lengths=(5,)
    ),
    "'moving' or 'batch'": lambda: _landscape(statistics="none"),
    "1 directions, 2 axes": lambda: _landscape(axes=[(0,), (0,)]),
    "trainable variables": lambda: _landscape(first=1),
    "`batch_size`.*batch_size=-1": lambda: _landscape(batch_size=-1),
    "`points_at_a.*time=-1": lambda: _landscape(points_at_a_time=-1),
}


@pytest.mark.parametrize("words", REFUSED)
def test_analyses_refuse_what_they_cannot_do(words):
    with pytest.raises(ValueError, match=words):
        REFUSED[words]()


@pytest.mark.parametrize(("change", "message"), ADAPTATIONS)
def test_analyses_of_weights_refuse_adapted_weights(change, message):
    model = _net()
    x, y = _data()
    direction = analysis.random_direction(model)
    change(model.get_layer("head"))
    with pytest.raises(ValueError, match=message):
        analysis.gradient_norms(model, x, y)
    with pytest.raises(ValueError, match=message):
        analysis.loss_landscape(model, x, y, [direction], [[0.0]])


@pytest.mark.once
def test_progress_is_shown_of_every_point():
    model, data = _net(depths=(3, 3)), _data(2)
    direction = analysis.random_direction(model, 0)
    shown = []

    def progress(points):
        shown.append(len(points))
        yield from points

    analysis.layer_responses(model, data[0], 1, progress)
    analysis.delete_each_block(model, *data, progress=progress)
    analysis.delete_blocks(model, *data, (1, 2), 2, progress=progress)
    analysis.swap_blocks(model, *data, (1,), 3, progress=progress)
    analysis.gradient_by_path_length(model, *data, samples=1, progress=progress)
    analysis.loss_landscape(
        model, *data, [direction], [[-1, 0, 1]], progress=progress
    )
    assert shown == [2, 6, 4, 3, 7, 3]
