"""Figures hold what they were given."""

import pytest

pytest.importorskip("matplotlib", reason="an extra: recipes")

from keras_resnet import plots  # noqa: E402


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
