"""Figures hold what they were given."""

import io
import itertools

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="an extra: recipes")

from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from keras_resnet import analysis, plots
from keras_resnet.plots import style

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("no_text_is_cut")]


def test_learning_curves_are_in_percent():
    curve = {
        "label": "ResNet-20",
        "iterations": [100, 200],
        "error": [0.5, 0.25],
        "val_error": [0.6, 0.3],
        "test_error": 0.35,
    }
    (axes,) = plots.learning_curves([curve], title="CIFAR-10").axes
    training, validation, test = axes.lines
    assert list(training.get_xdata()) == [100, 200]
    assert list(training.get_ydata()) == [50, 25]
    assert list(validation.get_ydata()) == [60, 30]
    assert list(test.get_ydata()) == [35]
    assert "%" in axes.get_ylabel()
    assert "iterations" in axes.get_xlabel()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[2] == "ResNet-20, test: 35.00 %"


def test_one_point_in_time_is_drawn_as_bars():
    curve = {"label": "ResNet-20", "iterations": [352], "test_error": 0.35}
    curve |= {"error": [0.5], "val_error": np.array([[0.2, 0.4]])}
    (axes,) = plots.learning_curves([curve]).axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([50, 30, 35])
    assert [text.get_text() for text in axes.texts][2] == " 35.0 %"
    assert "after 352 steps" in axes.get_xlabel()


def test_names_beside_lines_do_not_overlap():
    curves = [
        {"label": f"net {i}", "color": plots.PLAIN, "iterations": [1, 2]}
        | {"val_error": [0.9, end]}
        for i, end in enumerate((0.2, 0.201, 0.8, 0.2005))
    ]
    figure = plots.validation_curves(curves)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = sorted(axes.texts, key=lambda text: text.get_position()[1])
    # From the lowest error to the highest.
    assert [name.get_text() for name in names] == [
        *("net 0  20.0 %", "net 3  20.1 %", "net 1  20.1 %", "net 2  80.0 %")
    ]
    boxes = [Text.get_window_extent(name) for name in names]
    for below, above in itertools.pairwise(boxes):
        assert below.y1 < above.y0


def test_learning_curves_of_several_seeds_have_bands():
    errors = np.array([[0.5, 0.7], [0.2, 0.4]])
    curve = {"label": "ResNet-20", "iterations": [100, 200]}
    curve |= {"error": errors, "val_error": errors}
    (axes,) = plots.learning_curves([curve]).axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([60, 30])
    low, high = axes.collections[0].get_paths()[0].get_extents().get_points()
    assert high[1] == pytest.approx(60 + 10 * 2**0.5)


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "curves.png"
    path.write_text("the old one", "utf-8")

    class Broken:
        def savefig(self, path, metadata):
            path.write_text("half of", "utf-8")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        plots.save(Broken(), path)
    assert path.read_text("utf-8") == "the old one"
    series = _style(False) | {"std": [1.0]}
    plots.save(plots.layer_responses([series]), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_drawn_again_from_its_own_numbers(tmp_path):
    path = tmp_path / "picture.png"
    axis = np.linspace(-1, 1, 3, dtype="float32")
    line = analysis.Landscape((axis,), axis**2, axis.astype("int64") % 2 == 1)
    for plot, *arguments in (
        (plots.landscape_lines, [_style(True) | {"landscape": line}]),
        (plots.gradient_norms, [_style(False) | {"norms": axis + 2}], "seed"),
        (plots.learning_rate_errors, TRIALS),
    ):
        plots.draw(path, plot, *arguments)
        first = path.read_bytes()
        plots.save(Figure(), path, {"keras_resnet.plots": _numbers(first)})
        assert path.read_bytes() != first
        assert plots.redraw(path)
        assert path.read_bytes() == first
    plots.save(Figure(), path)
    blank = path.read_bytes()
    assert not plots.redraw(path)
    assert path.read_bytes() == blank
    plots.save(Figure(), path, {"keras_resnet.plots": '["portrait", [], {}]'})
    with pytest.raises(ValueError, match="'portrait'"):
        plots.redraw(path)


def _numbers(picture):
    return Image.open(io.BytesIO(picture)).info["keras_resnet.plots"]


RNG = np.random.default_rng(0)


def _style(plain):
    color = plots.PLAIN if plain else plots.RESIDUAL
    return {"label": "plain" if plain else "residual", "color": color}


def test_step_curves_are_means_over_seeds():
    values = np.array([[1.0, 3.0], [0.2, 0.4]])
    curve = _style(False) | {"iterations": [15, 30]}
    curve |= dict.fromkeys(
        ("loss", "val_loss", "accuracy", "val_accuracy"), values
    )
    loss, accuracy = plots.step_curves([curve]).axes
    assert list(loss.lines[0].get_ydata()) == pytest.approx([2, 0.3])
    assert list(accuracy.lines[1].get_ydata()) == pytest.approx([200, 30])
    assert loss.get_xlabel() == "steps of the optimizer"
    assert loss.get_ylabel() == "cross-entropy (nats)"
    assert accuracy.get_ylabel() == "accuracy (%)"
    assert loss.get_ylim()[1] < 4
    # A loss that is out of all proportion does not flatten the others.
    wild = curve | {"val_loss": 1e8 * values}
    loss_with_wild, _ = plots.step_curves([curve, wild]).axes
    assert loss_with_wild.get_ylim() == (0, 4.5)
    # A band of one sample deviation on both sides.
    low, high = loss.collections[0].get_paths()[0].get_extents().get_points()
    assert high[1] == pytest.approx(2 + 2**0.5)


def test_predictions_say_what_is_wrong():
    classes = ["automobile", "airplane"] * 7
    figure = plots.predictions(
        RNG.integers(255, size=(14, 4, 4, 1)),
        classes,
        {
            "ResNet-56": [("automobile", 1.0)] * 14,
            "plain-56": [(name, 0.416) for name in classes],
        },
    )
    first, second, *_ = figure.axes
    assert (first.get_title(), second.get_title()) == tuple(classes[:2])
    assert [(text.get_text(), text.get_color()) for text in second.texts] == [
        ("[ResNet-56: automobile, 100 %]", "#B00020"),
        ("plain-56: airplane, 42 %", "black"),
    ]
    # The longest names do not run into those of the next picture.
    figure.draw_without_rendering()
    boxes = [axes.texts[0].get_window_extent() for axes in figure.axes[:6]]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0


def test_an_explanation_is_drawn_over_its_image():
    image = RNG.integers(255, size=(6, 8, 3))
    places, values = np.zeros((6, 8)), RNG.normal(size=(6, 8, 3))
    places[2, 3] = 5
    figure = plots.explanation(image, places, values, "dog, 93.1 %")
    left, middle, right = figure.axes
    np.testing.assert_array_equal(left.images[0].get_array(), image)
    heat = middle.images[1].get_array()
    assert np.unravel_index(heat.argmax(), heat.shape) == (2, 3)
    assert heat.max() == 1
    np.testing.assert_allclose(right.images[0].get_array(), values.sum(-1))
    # The same distance from white for as against.
    assert right.images[0].norm.vmin == -right.images[0].norm.vmax
    # A class that nothing speaks for, in a grey image.
    plots.explanation(image[..., :1], 0 * places, 0 * values[..., :1])


def test_deletion_curves_state_their_means():
    probability = np.array([[1.0, 0.5, 0.0], [0.8, 0.3, 0.4]])
    one = _style(False) | {"probability": probability}
    (axes,) = plots.deletion_curves([0, 0.5, 1], [one]).axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([90, 40, 20])
    assert axes.lines[0].get_label() == "residual, mean 50 %"


def test_degradation_has_plain_and_residual_apart():
    curves = [
        {"depth": depth, "plain": plain, "iterations": [1, 2]}
        | {"error": [0.5, 0.1 * depth], "val_error": [0.5, 0.4]}
        for depth in (2, 3)
        for plain in (True, False)
    ]
    figure = plots.degradation(curves)
    for axes, color in zip(
        figure.axes, (plots.PLAIN, plots.RESIDUAL), strict=True
    ):
        assert len(axes.lines) == 4
        assert colors.to_hex(axes.lines[-1].get_color()).upper() == color
        ends = [line.get_ydata()[-1] for line in axes.lines]
        assert ends == pytest.approx([20, 40, 30, 40])
        assert "20.0 % with 2 layers, 30.0 % with 3" in axes.get_title()


def test_error_by_depth_has_deviations():
    series = _style(True) | {"depths": [20, 56], "error": [[0.1, 0.3], [0.4]]}
    (axes,) = plots.error_by_depth([series]).axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([20, 40])
    (bars,) = axes.containers[0].lines[2]
    lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    assert lengths == pytest.approx([2 * 2**0.5 * 10, 0])


def test_there_may_be_more_series_than_markers():
    many = len(style.MARKERS) + 1
    series = _style(True) | {"depths": [20], "error": [[0.1]]}
    plots.error_by_depth([series] * many)
    series = _style(True) | {"added": [1], "zero": [0.0], "random": [1.0]}
    plots.identity_property([series] * many)
    series = {"names": ["stage1_block1"], "error": [0.5], "baseline": 0.1}
    series["reshaping"] = [False]
    plots.deleted_blocks([_style(True) | series] * many)
    names = ("iterations", "loss", "val_loss", "accuracy", "val_accuracy")
    plots.step_curves([_style(True) | dict.fromkeys(names, [1])] * many)


def test_responses_are_in_order_and_sorted():
    series = _style(False) | {"std": [0.2, 0.5, 0.3]}
    above, below = plots.layer_responses([series]).axes
    assert list(above.lines[0].get_ydata()) == [0.2, 0.5, 0.3]
    assert list(below.lines[0].get_ydata()) == [0.5, 0.3, 0.2]
    deeper = _style(True) | {"std": [0.1, 0.3]}
    figure = plots.layer_responses([series, deeper])
    assert "mean response of plain: 40 % below" in figure.get_suptitle()


def test_gradients_are_by_layer():
    series = _style(True) | {"norms": np.array([1.0, 0.1])}
    (axes,) = plots.gradient_norms([series]).axes
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_xdata()) == [1, 2]
    flow = _style(True) | {
        "steps": np.arange(0, 90, 10),
        "norms": np.arange(18.0).reshape(9, 2) + 1,
    }
    (axes,) = plots.gradient_flow([flow]).axes
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["step 0", "step 40", "step 80"]
    assert [line.get_linestyle() for line in axes.lines] == ["--", ":", "-"]
    assert list(axes.lines[-1].get_ydata()) == [17, 18]
    # The norms are 1 and 2 at first, and 17 and 18 at the end.
    assert "2.0-fold between layers at first,\n1.1-fold" in axes.get_title()


def test_long_names_and_large_numbers_fit():
    errors = {"iterations": [352], "error": [0.5], "val_error": [0.4]}
    label = "ResNet-20 (A), keras_resnet:PreactivationBlock"
    plots.learning_curves([{"label": label} | errors])
    rows = [
        {"label": f"ResNet-110 ({option})", "color": plots.PLAIN}
        | {"iterations": [1, 2], "val_error": [0.9, 0.115]}
        for option in "ABC"
    ]
    title = "; ".join(f"{row['label']} 11.5 %" for row in rows)
    title = f"test error: plain-110 14.7 %; {title}"
    plots.validation_curves(rows, title)
    flow = {"label": "plain-110", "color": plots.PLAIN, "steps": [0, 1]}
    norms = np.geomspace(3.3e6, 1, 110) * np.ones((2, 1))
    plots.gradient_flow([flow | {"norms": norms}] * 2)


def test_growth_shows_an_exact_zero():
    series = _style(False) | {
        "added": [3, 6],
        "zero": [0.0, 0.0],
        "random": [0.1, 1.0],
    }
    figure = plots.identity_property([series])
    (axes,) = figure.axes
    figure.draw_without_rendering()
    assert list(axes.lines[0].get_ydata()) == [0, 0]
    assert axes.get_ylim()[0] <= 0


def test_lesions_are_in_percent():
    one = _style(True) | {
        "names": ("stage1_block2", "stage10_block1"),
        "error": np.array([0.2, 0.3]),
        "baseline": 0.1,
        "reshaping": np.array([False, True]),
    }
    (axes,) = plots.deleted_blocks([one]).axes
    usual, reshaping, whole = axes.lines
    assert list(usual.get_ydata()) == pytest.approx([20])
    assert list(reshaping.get_ydata()) == pytest.approx([30])
    assert reshaping.get_markerfacecolor() == "white"
    assert list(whole.get_ydata()) == [10, 10]
    assert "10.0 % wrong; without one block 25.0 %" in axes.get_title()
    texts = [text.get_text() for text in axes.get_xticklabels()]
    assert texts == ["1.2", "10.1"]
    study = analysis.LesionStudy(
        np.array([0, 1]),
        np.array([[0.1, 0.1], [0.2, 0.4]]),
        np.ones((2, 2)),
        np.array([[False, False], [False, True]]),
    )
    several = _style(True) | {"deleted": study, "swapped": study}
    left, right = plots.lesion_study([several]).axes
    assert list(left.lines[0].get_ydata()) == pytest.approx([10, 30])
    assert list(left.lines[1].get_ydata()) == pytest.approx([10, 10, 20])
    assert list(left.lines[2].get_ydata()) == pytest.approx([40])
    assert list(right.lines[0].get_ydata()) == pytest.approx([10, 10, 20, 40])


def test_paths_are_weighted_by_their_number():
    lengths, share = analysis.path_lengths(2)
    gradients = analysis.PathGradients(
        lengths, np.array([[4.0, 4.0], [1.0, 3.0], [2.0, 2.0]])
    )
    figure = plots.path_lengths(lengths, share, gradients)
    count, one, total = figure.axes
    heights = [bar.get_height() for bar in count.patches]
    assert heights == pytest.approx([25, 50, 25])
    assert list(one.lines[0].get_ydata()) == [4, 2, 2]
    heights = [bar.get_height() for bar in total.patches]
    assert heights == pytest.approx([40, 40, 20])


def test_landscapes_have_the_same_levels():
    axis = np.linspace(-1, 1, 5)
    plane = axis[:, None] ** 2 + 2 * axis**2 + 0.1
    series = [
        _style(plain)
        | {"landscape": analysis.Landscape((axis, axis), loss, loss)}
        for plain, loss in ((False, plane), (True, 10 * plane))
    ]
    for plot in (plots.landscape_contours, plots.landscape_surface):
        figure = plot(series, caption="seed 0")
        figure.draw_without_rendering()
        titles = [axes.get_title() for axes in figure.axes[:2]]
        assert titles == ["residual", "plain"]
    # The first direction is the horizontal one.
    contours = plots.landscape_contours(series).axes[0].collections[0]
    low, high = contours.get_paths()[4].get_extents().get_points()
    assert np.diff([low[0], high[0]]) > np.diff([low[1], high[1]])
    line = analysis.Landscape((axis,), plane[0], plane[0])
    left, right = plots.landscape_lines(
        [_style(True) | {"landscape": line}]
    ).axes
    assert list(left.lines[0].get_ydata()) == plane[0].tolist()
    assert list(right.lines[0].get_ydata()) == (100 * plane[0]).tolist()


TRIALS = [
    {"learning_rate": 0.1, "depth": 8, "val_error": 0.5},
    {"learning_rate": 0.01, "depth": 8, "val_error": 0.25},
    {"learning_rate": 0.2, "depth": 14, "val_error": 0.125},
    {"learning_rate": 1.0, "depth": 14},
]


def test_learning_rate_errors_have_a_colour_per_depth():
    (axes,) = plots.learning_rate_errors(TRIALS).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["depth 8"].get_xdata()) == [0.01, 0.1]
    assert list(lines["depth 8"].get_ydata()) == [25, 50]
    assert list(lines["depth 14"].get_ydata()) == [12.5]
    assert list(lines["depth 14, failed"].get_xdata()) == [1.0]
    assert lines["depth 8"].get_color() != lines["depth 14"].get_color()
    assert axes.get_xscale() == "log"


def test_parallel_coordinates_have_a_line_per_trial():
    columns = {"depth": [8, 14, 8], "learning_rate": [0.01, 0.1, 1.0]}
    (axes,) = plots.parallel_coordinates(
        columns | {"shortcut": ["A", "B", "C"]},
        [0.3, 0.1, 0.2],
        log=["learning_rate"],
    ).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    heights = [[round(y, 6) for y in line.get_ydata()] for line in lines]
    # From the highest error to the lowest, which is the one that is named.
    assert heights == [[0, 0, 0, 1], [0, 1, 1, 0.5], [1, 0.5, 0.5, 0]]
    assert [t.get_text() for t in axes.get_legend().get_texts()]
    assert lines[-1].get_label() == "lowest error, 10.0 %"
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == [
        "depth",
        "learning rate",
        "shortcut",
        "validation error (%)",
    ]
    texts = [text.get_text() for text in axes.texts]
    assert {"8", "14", "0.01", "0.1", "1", "A", "30", "10"} <= set(texts)


def test_parallel_coordinates_take_a_single_trial():
    figure = plots.parallel_coordinates({"depth": [8]}, [0.1])
    assert figure.axes
