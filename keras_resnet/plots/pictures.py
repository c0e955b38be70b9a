"""Pictures that hold the numbers they show, so that they can be drawn again.

An improved drawing then needs no new training.
"""

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from keras_resnet.plots.style import save
from keras_resnet.types import PathLike

# The text chunk of the PNG file with the name of the function and its
# arguments, as JSON.
KEY = "keras_resnet.plots"


def draw(
    path: PathLike, plot: Callable[..., Figure], *args: Any, **kwargs: Any
) -> None:
    """Save the figure of a function of this package, with its arguments.

    Args:
        path: Path of the picture, a PNG file.
        plot: Function of `keras_resnet.plots` that returns a figure.
        *args: Its arguments.
        **kwargs: Its arguments by name.
    """
    text = json.dumps(_as_json([plot.__name__, args, kwargs]))
    save(plot(*args, **kwargs), path, {KEY: text})


def redraw(path: PathLike) -> bool:
    """Draw a picture again from the numbers in its file.

    Args:
        path: Path of a PNG file.

    Returns:
        Boolean, whether the file has numbers. Without them it is unchanged.

    Raises:
        ValueError: If `keras_resnet.plots` lacks the function that drew it.
    """
    from keras_resnet import plots

    with Image.open(Path(path)) as image:
        text = image.info.get(KEY)
    if text is None:
        return False
    name, args, kwargs = json.loads(text, object_hook=_from_json)
    if name not in plots.__all__:
        raise ValueError(
            f"{path} was drawn by {name!r}, which keras_resnet.plots does not "
            "have: draw it with the version that made it"
        )
    draw(path, getattr(plots, name), *args, **kwargs)
    return True


def _as_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {
            "dtype": value.dtype.name,
            "shape": value.shape,
            "values": [_as_json(x) for x in value.ravel()],
        }
    if isinstance(value, dict):
        return {str(k): _as_json(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        name = type(value).__name__
        return {"type": name, "fields": _as_json(value._asdict())}
    if isinstance(value, list | tuple):
        return [*map(_as_json, value)]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        # More digits than a picture shows.
        return float(f"{value:.6g}")
    return int(value) if isinstance(value, np.integer) else value


def _from_json(value: dict[str, Any]) -> Any:
    if value.keys() == {"dtype", "shape", "values"}:
        array = np.array(value["values"], value["dtype"])
        return array.reshape(value["shape"])
    if value.keys() == {"type", "fields"}:
        fields = value["fields"]
        return collections.namedtuple(value["type"], fields)(**fields)
    return value
