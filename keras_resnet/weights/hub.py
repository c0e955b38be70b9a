"""Downloads: cached, verified, resumed.

`huggingface_hub` compares sizes and no checksums, and `keras.utils.get_file`
starts again after an interruption. Here a file is in the cache only if its
checksum was right, and what a broken download left is the start of the next.
Of several processes that want the same file one downloads it.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import keras

from keras_resnet.weights.errors import DownloadError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without any byte
# How often a transfer that breaks off is taken up again.
ATTEMPTS = 5
HUB = "https://huggingface.co"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def cache_folder():
    """Returns the folder of downloads, in Keras's own (`KERAS_HOME`)."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_resnet"


def repository_file(repository, name):
    """Downloads one file of a repository on the Hugging Face hub.

    A file that is in the cache is used as it is, without the network.

    Args:
        repository: `"owner/name"`, or `"owner/name@revision"`.
        name: Name of the file.

    Returns:
        The path of the file in the cache.

    Raises:
        DownloadError: If it is not there, not what the hub says it is, or
            cannot be written.
    """
    repository, _, revision = repository.partition("@")
    revision = revision or "main"
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    url = f"{endpoint}/{repository}/resolve/{revision}/{name}"
    folder = repository.replace("/", "--")
    path = cache_folder() / folder / revision.replace("/", "--") / name
    # Beside each file stands the checksum that the hub gave for it.
    note = path.with_name(f"{name}.checksum")
    if path.exists() and note.exists():
        return _download(url, path, note.read_text("utf-8"))
    checksum = _hub_checksum(url)
    with _locked(note), _writing(note):
        partial = note.with_name(f".partial-{note.name}")
        partial.write_text(checksum, "utf-8")
        os.replace(partial, note)
    return _download(url, path, checksum)


def file(url, md5):
    """Downloads a file whose MD5 is known. Returns its path in the cache."""
    name = urllib.parse.urlsplit(url).path.rpartition("/")[2]
    return _download(url, cache_folder() / name, f"md5:{md5}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Shows a redirection as it is, instead of going where it leads."""

    def redirect_request(self, *args):
        return None


def _hub_checksum(url):
    """Asks the hub for a file's checksum.

    The hub's entity tag of a large file is its SHA-256, that of a small one
    the SHA-1 that git gives it. The file itself may be on another server,
    whose tags mean something else.
    """
    opener = urllib.request.build_opener(_NoRedirect)
    for _ in range(3):
        request = urllib.request.Request(
            url, method="HEAD", headers={"Accept-Encoding": "identity"}
        )
        try:
            headers = opener.open(request, timeout=TIMEOUT).headers
        except urllib.error.HTTPError as error:
            if error.code not in (301, 302, 303, 307, 308):
                raise _http_error(url, error) from None
            headers = error.headers
        except (OSError, http.client.HTTPException) as error:
            raise _network_error(url, error) from None
        tag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
        tag = tag.removeprefix("W/").strip('"')
        if re.fullmatch("[0-9a-f]{64}", tag):
            return f"sha256:{tag}"
        if re.fullmatch("[0-9a-f]{40}", tag):
            return f"git:{tag}"
        # A repository that was renamed.
        location = headers.get("Location")
        if not location:
            break
        url = urllib.parse.urljoin(url, location)
    raise DownloadError(
        f"{url} gives no checksum of the file, so that it cannot be verified."
    )


def _http_error(url, error):
    hint = ""
    if error.code in (401, 403, 404):
        # The hub answers 401 for repositories that do not exist, too.
        hint = ": there is no such repository or file, or it is not public"
    return DownloadError(f"{url}: HTTP {error.code} {error.reason}{hint}.")


def _network_error(url, error):
    reason = getattr(error, "reason", None) or error
    return DownloadError(
        f"{url} cannot be reached: {reason or type(error).__name__}. The same "
        "call goes on where a download ended; a file that was downloaded once "
        "needs no network."
    )


@contextlib.contextmanager
def _writing(path):
    """Says of errors that they are of this machine's files."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {error.strerror or error}. "
            "`KERAS_HOME` names another folder for downloads."
        ) from None


@contextlib.contextmanager
def _locked(path):
    """Waits until no other thread or process writes `path`.

    The lock is the system's, which frees it however a process ends. The empty
    file that carries it stays: another process may be waiting for it.
    """
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        with _writing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            _lock(stack.enter_context(open(lock, "a")))
        yield


def _lock(file):
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    import msvcrt

    while True:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            return
        except OSError as error:
            # Windows gives up after ten seconds.
            if error.errno != errno.EDEADLK:
                raise


def _download(url, path, checksum):
    """Returns `path`, which then holds the file with this checksum."""
    if _is_whole(path, checksum):
        return path
    with _locked(path):
        # Another process may have downloaded it meanwhile.
        if _is_whole(path, checksum):
            return path
        # Named after its content: only the same file is ever continued.
        short = checksum.partition(":")[2][:12]
        partial = path.with_name(f".partial-{short}-{path.name}")
        _fetch(url, partial)
        found = _checksum(partial, checksum)
        if found != checksum:
            partial.unlink()
            raise DownloadError(
                f"{url} is not the file it should be: its checksum is "
                f"{found}, not {checksum}. Nothing was kept."
            )
        with _writing(path):
            os.replace(partial, path)
    return path


def _is_whole(path, checksum):
    return path.exists() and _checksum(path, checksum) == checksum


def _checksum(path, like):
    """Returns the checksum of a file, of the kind of `like`."""
    kind = like.partition(":")[0]
    if kind == "git":
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % path.stat().st_size)
    elif kind == "md5":
        digest = hashlib.md5(usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with open(path, "rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def _fetch(url, partial):
    """Appends to `partial` what it lacks of the file at `url`."""
    for attempt in range(1, ATTEMPTS + 1):
        before = partial.stat().st_size if partial.exists() else 0
        try:
            total = _transfer(url, partial)
        except urllib.error.HTTPError as error:
            raise _http_error(url, error) from None
        except (OSError, http.client.HTTPException) as error:
            # With nothing gained there is no point in trying again.
            size = partial.stat().st_size if partial.exists() else 0
            if attempt == ATTEMPTS or size <= before:
                raise _network_error(url, error) from None
            continue
        size = partial.stat().st_size
        if total is None or size >= total:
            return
        if size <= before or attempt == ATTEMPTS:
            break
    raise DownloadError(
        f"{url} ended after {size} of {total} bytes. The same call goes on "
        "from there."
    )


def _transfer(url, partial):
    """Reads once; returns the size of the whole file, `None` if unknown."""
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            # Nothing is lacking; the checksum tells whether that is so.
            return start
        raise
    with response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        bar = keras.utils.Progbar(total, unit_name="byte")
        done = start
        if not start:
            _write(partial, "wb", b"")
        while chunk := response.read(CHUNK):
            _write(partial, "ab", chunk)
            done += len(chunk)
            bar.update(done)
    return total


def _write(partial, mode, chunk):
    # Apart from reading, whose errors are the network's.
    with _writing(partial), open(partial, mode) as target:
        target.write(chunk)


def read_json(repository, name):
    """Returns the content of a repository's JSON file."""
    path = repository_file(repository, name)
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DownloadError(
            f"{name} of {repository} is no JSON: {error}"
        ) from None
