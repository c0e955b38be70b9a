"""Image files of all the kinds that ImageNet has, for tests."""

import io
import tarfile

import numpy as np

# Names that TFDS knows: in ImageNet one is CMYK, one a PNG file.
CMYK = "n01739381_1309.JPEG"
PNG = "n02105855_2933.JPEG"


def picture(seed, rows=72, columns=88):
    """A smooth picture, which JPEG hardly changes, unlike any other."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns] / 20
    waves = [
        np.sin(a * y + b * x + c) for a, b, c in rng.uniform(0.3, 1.5, (3, 3))
    ]
    image = 128 + 60 * np.stack(waves, -1) + rng.uniform(-60, 60, 3)
    return image.clip(0, 255).astype("uint8")


def encoded(image, kind="JPEG", mode="RGB"):
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(image).convert(mode)
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


def jpeg(seed, **kwargs):
    return encoded(picture(seed, **kwargs))


def write(path, contents):
    """Write a file, and the folders on its way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)
    return path


def image_folder(folder, classes=4, each=5, corrupt=0, first=0):
    """Write folders of classes; the last files of the first are corrupt."""
    for i in range(classes):
        for j in range(each):
            name = f"class{i}/{j}.JPEG"
            # Odd pictures are of other proportions.
            size = {"rows": 96, "columns": 64} if j % 2 else {}
            contents = jpeg(first + i * each + j, **size)
            if i == 0 and j >= each - corrupt:
                contents = contents[: len(contents) // 20]
            write(folder / name, contents)
    return folder


def _add(archive, name, contents):
    info = tarfile.TarInfo(name)
    info.size = len(contents)
    archive.addfile(info, io.BytesIO(contents))


def _tar(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, contents in files.items():
            _add(archive, name, contents)
    return file.getvalue()


def imagenet_tars(folder, images, validation):
    """Write the two tar files in which ImageNet is handed out.

    Args:
        folder: Path.
        images: By WordNet id, contents of training images by name.
        validation: Integer, number of validation images.
    """
    tars = {f"{wnid}.tar": _tar(files) for wnid, files in images.items()}
    write(folder / "ILSVRC2012_img_train.tar", _tar(tars))
    files = {
        f"ILSVRC2012_val_{i + 1:08}.JPEG": jpeg(1000 + i)
        for i in range(validation)
    }
    write(folder / "ILSVRC2012_img_val.tar", _tar(files))
    return folder
