"""Downloads of published weights, cached and verified.

`huggingface_hub` downloads and caches the files of repositories. It compares
sizes but no checksums, so this module verifies the checksum at each use.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
from pathlib import Path

import keras

from keras_resnet.atomic import locked
from keras_resnet.types import Config
from keras_resnet.weights import files
from keras_resnet.weights.errors import DownloadError, WeightsError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def repository_file(repository: str, name: str) -> Path:
    """Download one file of a repository on the Hugging Face hub.

    Args:
        repository: `"owner/name"`, or `"owner/name@revision"`; or a folder,
            whose file is returned without a check.
        name: Name of the file.

    Returns:
        The path of the file, in the cache of `huggingface_hub`. A file in the
        cache is used without the network.

    Raises:
        DownloadError: If the file is missing, cannot be downloaded or
            written, or differs from the hub's checksum.
        WeightsError: If the folder has no such file.
    """
    if os.path.isdir(repository):
        path = Path(repository, name)
        if not path.is_file():
            raise WeightsError(f"The folder {repository} has no {name}.")
        return path
    # Imported here because most uses of this package download nothing.
    from huggingface_hub import constants, hf_hub_download

    repository, _, revision = repository.partition("@")
    revision = revision or constants.DEFAULT_REVISION
    file = {"repo_id": repository, "filename": name, "revision": revision}
    url = f"{constants.ENDPOINT}/{repository}/resolve/{revision}/{name}"
    cache = Path(constants.HF_HUB_CACHE)
    lock = f"keras_resnet--{repository.replace('/', '--')}--{name}"
    with _one_line_errors(url, cache, "HF_HUB_CACHE"):
        # The first try takes no lock, because a shared cache may be read-only.
        with contextlib.suppress(FileNotFoundError):
            path = Path(hf_hub_download(**file, local_files_only=True))
            if not _difference(path, file):
                return path
        with locked(cache / ".locks" / lock):
            # Two tries, because the first may find a changed file in the cache.
            for _ in range(2):
                path = Path(hf_hub_download(**file))
                difference = _difference(path, file)
                if not difference:
                    return path
                path.resolve().unlink()
    raise DownloadError(
        f"{url} is not the file it should be: {difference}. Nothing was kept."
    )


def read_json(repository: str, name: str) -> Config:
    """Return the content of a repository's JSON file.

    Raises:
        DownloadError: See `repository_file`; and if the file is not JSON.
        WeightsError: See `repository_file`; and if the file is too large.
    """
    path = repository_file(repository, name)
    files.check_config(path, path.stat().st_size)
    try:
        return json.loads(path.read_text("utf-8"))
    except (RecursionError, ValueError) as error:
        raise DownloadError(
            f"{name} of {repository} is not JSON: {error}"
        ) from None


def keras_file(url: str, md5: str) -> Path:
    """Download a file of `keras.applications` and return its path.

    A file in the cache is used without the network.

    Raises:
        DownloadError: If the file cannot be downloaded or written, or has a
            wrong checksum.
    """
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "models" / url.rpartition("/")[2]
    partial = path.with_name(f".partial-{path.name}")

    def whole():
        return path.exists() and _checksum(path, md5) == md5

    with _one_line_errors(url, path.parent, "KERAS_HOME"):
        if whole():
            return path
        with locked(path):
            if whole():
                return path
            try:
                # To a temporary name, because `get_file` writes in place.
                with _time_limit():
                    keras.utils.get_file(
                        partial.name,
                        url,
                        file_hash=md5,
                        cache_dir=path.parent,
                        cache_subdir="",
                        force_download=True,
                    )
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
    return path


def _difference(path, file):
    """Return how a file in the cache differs from the hub's, or `None`."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    if path.is_symlink():
        # The name of the linked file in the cache is its checksum.
        stated = path.readlink().name
    else:
        # Windows may have no links, so the checksum comes from the hub.
        stated = get_hf_file_metadata(hf_hub_url(**file)).etag
    actual = _checksum(path, stated)
    if actual == stated:
        return None
    return f"its checksum is {actual}, and the hub states {stated}"


def _checksum(path, like):
    """Return the checksum of a file, of the same kind as the checksum `like`.

    The hub has the SHA-256 of large files, and git's SHA-1 of small files.
    """
    kinds = {64: "sha256", 40: "sha1", 32: "md5"}
    if len(like) not in kinds:
        raise ValueError(f"{like!r} from the hub is not a checksum")
    with open(path, "rb") as content:
        if len(like) == 40:
            data = content.read()
            git = b"blob %d\0" % len(data) + data
            return hashlib.sha1(git).hexdigest()
        return hashlib.file_digest(content, kinds[len(like)]).hexdigest()


@contextlib.contextmanager
def _time_limit():
    """Return a context with the time limit of huggingface_hub for Keras."""
    from huggingface_hub import constants

    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(usual)


@contextlib.contextmanager
def _one_line_errors(url, folder, setting):
    """Raise every error of a download as a `DownloadError` of one line."""
    from huggingface_hub import errors

    try:
        yield
    # Keras and huggingface_hub raise errors of many unrelated classes.
    except Exception as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            # Its cause says why the hub was not reached.
            error = error.__cause__ or error
        response = getattr(error, "response", None)
        network = isinstance(error, (ConnectionError, TimeoutError))
        if response is not None:
            status = f"{response.status_code} {response.reason_phrase}"
            message = f"{url}: HTTP {status}"
            # The hub also answers 401 for repositories that do not exist.
            if response.status_code in (401, 403, 404):
                message += (
                    ": there is no such repository, revision or file, or it "
                    "needs another token (`HF_TOKEN`)"
                )
        elif getattr(error, "strerror", None) and not network:
            message = (
                f"{error.filename or folder} cannot be read or written: "
                f"{error.strerror}. `{setting}` names another folder"
            )
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            message = (
                f"{url} cannot be downloaded: {reason.rstrip('.')}. The same "
                "call tries again; a file in the cache needs no network"
            )
        raise DownloadError(f"{message}.") from None
