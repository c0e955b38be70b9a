"""Downloads, from a server on this machine that plays the hub."""

import concurrent.futures
import errno
import functools
import hashlib
import http.server
import json
import os
import re
import threading
import time
import types
from pathlib import Path

import keras
import networks
import numpy as np
import pytest
import safetensors.numpy
from conftest import free_port
from huggingface_hub import constants
from tqdm import tqdm

import keras_resnet
from keras_resnet import DownloadError, WeightsError, preprocessing
from keras_resnet.weights import hub, loading, published

pytestmark = pytest.mark.once

TIMM = {
    "architecture": "resnet18",
    "num_classes": 7,
    "pretrained_cfg": {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "input_size": [3, 160, 160],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "crop_mode": "center",
    },
}
ROOT = "/owner/net/resolve/main/"
WEIGHTS = f"{ROOT}model.safetensors"
COMMIT = "c0ffee" * 6 + "beef"
TRANSFORMERS = {"model_type": "resnet", "downsample_in_bottleneck": False}


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files` as the Hugging Face hub does, or with given faults."""

    # More than the default of five clients may connect at once. The others
    # would try again only after seconds.
    request_queue_size = 16

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.requests = []
        self.cuts = []  # after how many bytes each transfer breaks off
        self.tags = {}  # wrong checksums
        self.oddity = None  # how every request is answered instead
        self.closing = threading.Event()

    def put(self, model, config=TIMM, naming="torchvision", root=ROOT):
        """Put a network in a repository and return it."""
        arrays = loading.to_arrays(model, naming)
        self.files[f"{root}config.json"] = json.dumps(config).encode()
        self.files[f"{root}model.safetensors"] = safetensors.numpy.save(arrays)
        return model

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def respond(self, status, content=None, **headers):
        """Send a status, headers with _ for -, and perhaps a content."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if content is not None:
            self.wfile.write(content)

    def missing(self, path):
        """Say what of a file's address the hub does not have."""
        repository, revision = path.split("/resolve/")
        revision = f"{repository}/resolve/{revision.partition('/')[0]}/"
        files = self.server.files
        code = "EntryNotFound"
        if not any(f.startswith(repository + "/") for f in files):
            code = "RepoNotFound"
        elif not any(f.startswith(revision) for f in files):
            code = "RevisionNotFound"
        self.respond(404, X_Error_Code=code, Content_Length=0)

    def answer(self, head):
        server = self.server
        server.requests.append((self.command, self.path))
        if server.oddity is not None:
            server.oddity(self)
            return
        path = self.path.removeprefix("/storage")
        content = server.files.get(path)
        if content is None:
            if "/resolve/" in path:
                self.missing(path)
            else:
                self.send_error(404)
            return
        sha = hashlib.sha256(content).hexdigest()
        size = len(content)
        large = path.endswith(".safetensors")
        if large and path == self.path:
            # Large files are elsewhere, under tags of another kind.
            elsewhere = server.url.replace("127.0.0.1", "localhost")
            self.respond(
                302,
                Location=f"{elsewhere}/storage{path}",
                X_Repo_Commit=COMMIT,
                X_Linked_Size=size,
                X_Linked_Etag=f'"{server.tags.get(path, sha)}"',
                Content_Length=0,
            )
            return
        git = b"blob %d\0" % size + content
        tag = "of another kind" if large else hashlib.sha1(git).hexdigest()
        if not head and server.cuts:
            content = content[: server.cuts.pop(0)]
        self.respond(
            200,
            None if head else content,
            X_Repo_Commit=COMMIT,
            ETag=f'"{server.tags.get(path, tag)}"',
            Content_Length=size,
        )


def never_answer(handler):
    handler.server.closing.wait(5)


def state_no_number_of_bytes(handler):
    tag = f'"{"0" * 40}"'
    handler.respond(200, X_Repo_Commit=COMMIT, ETag=tag, Content_Length="abc")


def redirect_to_itself(handler):
    address = handler.server.url + handler.path
    handler.respond(302, Location=address, Content_Length=0)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home"))
    # It waits for seconds between attempts.
    hasty = types.SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", hasty)
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        point_to(monkeypatch, server.url)
        yield server
        server.closing.set()
        server.shutdown()


def point_to(monkeypatch, url):
    """Does what `HF_ENDPOINT` does before huggingface_hub is imported."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    template = template.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


small = functools.partial(
    networks.small,
    (1, 1),
    size=(32, 32),
    stem="imagenet",
    classes=7,
    classifier_activation=None,
)


def assert_equal(a, b):
    np.testing.assert_equal(a.get_weights(), b.get_weights())


def one_line(words):
    return pytest.raises(DownloadError, match=rf"^.*{words}.*\Z")


def full(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_good_file_is_cached(server, monkeypatch, capsys):
    # Otherwise a bar is shown on terminals alone.
    monkeypatch.setenv("TQDM_POSITION", "-1")
    source = server.put(small())
    model = small(weights="owner/net")
    assert_equal(model, source)
    # Progress was shown, up to the last byte.
    size = tqdm.format_sizeof(len(server.files[WEIGHTS]))
    assert f"100%|██████████| {size}/{size}" in capsys.readouterr().err
    assert model.preprocessing == preprocessing.Preprocessing(
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        size=160,
        resize=182,
        interpolation="bicubic",
    )
    # The second time nothing is asked.
    server.requests.clear()
    again = small(weights="owner/net")
    assert_equal(again, source)
    assert not server.requests


def test_no_network(server, monkeypatch):
    source = server.put(small())
    small(weights="owner/net")
    address = f"http://127.0.0.1:{free_port()}"
    point_to(monkeypatch, address)
    # A downloaded file is kept.
    assert_equal(small(weights="owner/net"), source)
    with one_line(f"{address}.* cannot be downloaded: .*refused"):
        small(weights="owner/other")


def test_404(server):
    server.put(small())
    message = "HTTP 404 .* no such repository, revision or file"
    del server.files[f"{ROOT}config.json"]
    for name in ("owner/none", "owner/net@none", "owner/net"):
        with one_line(message):
            small(weights=name)


def cached(tmp_path):
    return sorted(p for p in (tmp_path / "home").rglob("*") if p.is_file())


def whole(tmp_path):
    """The names of the cached files of repositories."""
    return [p.name for p in cached(tmp_path) if "snapshots" in p.parts]


def test_wrong_checksum(server, tmp_path):
    server.put(small())
    server.tags[WEIGHTS] = "0" * 64
    with pytest.raises(DownloadError, match="not the file it should be") as e:
        small(weights="owner/net")
    assert "states 000" in str(e.value)
    # Nothing of it stays.
    assert whole(tmp_path) == ["config.json"]
    content = server.files[WEIGHTS]
    assert content not in [p.read_bytes() for p in cached(tmp_path)]
    config = f"{ROOT}config.json"
    (path,) = (tmp_path / "home").rglob("config.json")
    path.resolve().unlink()
    server.tags[config] = "1" * 40
    with pytest.raises(DownloadError, match="states 111"):
        small(weights="owner/net")
    assert whole(tmp_path) == []
    server.tags[config] = "none"
    with pytest.raises(DownloadError, match="'none' from the hub is not"):
        small(weights="owner/net")


def test_truncated_then_downloaded(server, tmp_path):
    source = server.put(small())
    # One whole transfer (of config.json), one cut, and none after it.
    server.cuts = [10_000, 1000] + [0] * 10
    with one_line("downloaded: .*The same call"):
        small(weights="owner/net")
    # No partial file is taken for a whole one, and none is left.
    assert whole(tmp_path) == ["config.json"]
    assert not [p for p in cached(tmp_path) if p.suffix == ".incomplete"]
    server.cuts = []
    assert_equal(small(weights="owner/net"), source)


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("links", [0, 1, 2])
def test_a_file_that_changed_in_the_cache_is_replaced(
    server, tmp_path, monkeypatch, links
):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    source = server.put(small())
    small(weights="owner/net")
    (path,) = (tmp_path / "home").rglob("model.safetensors")
    assert path.is_symlink() == bool(links)
    if links == 2:
        # As where repositories with the same file share it.
        blob = path.resolve()
        blob.symlink_to(blob.rename(tmp_path / "shared"))
    damage(path)
    assert_equal(small(weights="owner/net"), source)
    assert path.read_bytes() == server.files[WEIGHTS]


def run_together(function, times=8):
    together = threading.Barrier(times)

    def run(_):
        together.wait()
        return function()

    # The system's locks are of open files, so threads exclude each other as
    # processes do.
    with concurrent.futures.ThreadPoolExecutor(times) as workers:
        return list(workers.map(run, range(times)))


def test_one_of_several_downloads(server):
    server.put(small())

    def download():
        path = hub.repository_file("owner/net", "model.safetensors")
        return path, path.read_bytes()

    def transfers():
        wanted = ("GET", f"/storage{WEIGHTS}")
        count = server.requests.count(wanted)
        server.requests.clear()
        return count

    expected = server.files[WEIGHTS]
    ((path, content),) = set(run_together(download))
    assert content == expected
    assert transfers() == 1
    # As if the file had changed while none of them ran.
    damage(path)
    assert set(run_together(download)) == {(path, expected)}
    assert transfers() == 1


def test_a_cache_that_cannot_be_written_is_read(server, monkeypatch):
    source = server.put(small())
    small(weights="owner/net")

    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    url, md5 = f"{server.url}/net.h5", hashlib.md5(b"net").hexdigest()
    server.files["/net.h5"] = b"net"
    path = hub.keras_file(url, md5)
    # Whoever runs the tests may be allowed to write everywhere.
    monkeypatch.setattr(hub, "locked", refuse)
    assert_equal(small(weights="owner/net"), source)
    assert hub.keras_file(url, md5) == path


DOWNLOAD = """
import sys
import keras_resnet
from keras_resnet.weights import hub
for name in sys.argv[1:]:
    try:
        print(hub.repository_file("owner/net", name))
    except keras_resnet.DownloadError as error:
        print(error)
"""


def test_environment_of_huggingface_hub(
    server, tmp_path, monkeypatch, run_python
):
    server.put(small())
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    files = "config.json", "model.safetensors"
    paths = run_python("-c", DOWNLOAD, *files).stdout.splitlines()
    for path, name in zip(map(Path, paths), files, strict=True):
        assert path.is_relative_to(tmp_path / "hf" / "hub")
        content = server.files[f"{ROOT}{name}"]
        assert path.read_bytes() == content
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run_python("-c", DOWNLOAD, *files, "none")
    *again, error = result.stdout.splitlines()
    assert again == paths
    pattern = "net/resolve/main/none cannot be .* offline mode is enabled"
    assert re.search(pattern, error)
    assert not server.requests


@pytest.mark.once
def test_listed_weights_have_networks_and_sources():
    listed = keras_resnet.list_weights()
    assert len(listed) == 8
    for each in listed:
        assert published.check(each.weights) == each.weights
        depth = int(each.network.removeprefix("ResNet"))
        assert each.network in keras_resnet.__all__
        assert (depth in published.KERAS_MD5) or each.weights == "imagenet"
        assert (each.bottleneck_stride is None) == (depth < 50)
        assert 50 < each.top1 < each.top5 < 100


def test_transformers_repository(server):
    options = {"bottleneck": True}
    source = server.put(small(**options), TRANSFORMERS, "transformers")
    images = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "resample": 3,
    }
    preprocessor = json.dumps(images).encode()
    server.files[f"{ROOT}preprocessor_config.json"] = preprocessor
    model = small(weights="owner/net", **options)
    assert_equal(model, source)
    actual = model.preprocessing
    assert (actual.size, actual.resize) == (224, 256)
    assert actual.interpolation == "bicubic"
    with pytest.raises(WeightsError, match="bottleneck_stride='3x3'"):
        small(weights="owner/net", bottleneck_stride="1x1", **options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        # The same tensors, another computation.
        ({**TIMM, "architecture": "resnetaa50"}, "holds 'resnetaa50'"),
        ({"model_type": "vit"}, "holds 'vit'"),
        # With another stem.
        ({"architecture": "resnetv2_50d_gn"}, "'resnetv2_50d_gn'"),
        ({"architecture": "resnet18"}, "not understood"),
        ([], "not understood"),
        ({**TRANSFORMERS, "hidden_act": "gelu"}, "another activation"),
        (
            {**TIMM, "model_args": {"drop_rate": 0.1, "output_stride": 8}},
            "by output_stride=8. ",
        ),
        ({**TIMM, "model_args": {"act_layer": "silu"}}, "act_layer='silu'"),
        ({**TIMM, "model_args": {"global_pool": "max"}}, "global_pool='max'"),
        (
            {
                **TIMM,
                "pretrained_cfg": TIMM["pretrained_cfg"]
                | {"crop_mode": "squash"},
            },
            "owner/net .*crop_mode='squash'",
        ),
    ],
)
def test_other_networks_are_refused(server, config, message):
    server.put(small(), config)
    with pytest.raises(WeightsError, match=message):
        small(weights="owner/net")


def test_timms_preactivated_networks_are_taken(server):
    config = {**TIMM, "architecture": "resnetv2_50"}
    options = {"block": keras_resnet.PreactivationBlock, "bottleneck": True}
    source = server.put(small(**options), config, "timm_v2")
    model = small(weights="owner/net", **options)
    assert_equal(model, source)
    assert model.preprocessing.size == 160
    with pytest.raises(WeightsError, match=r"block=.*PreactivationBlock"):
        small(weights="owner/net", bottleneck=True)


def test_imagenet_is_torchvisions(server):
    model = keras_resnet.ResNet18(input_shape=(32, 32, 3))
    cfg = {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input_size": [3, 224, 224],
        "crop_pct": 0.875,
        "interpolation": "bilinear",
    }
    config = {"architecture": "resnet18", "pretrained_cfg": cfg}
    root = "/timm/resnet18.tv_in1k/resolve/main/"
    server.put(model, config, root=root)
    # Fine-tuning: other classes, other channels.
    tuned = keras_resnet.ResNet18(
        weights="imagenet", classes=3, input_shape=(32, 32, 1)
    )
    ours, theirs = (loading.to_arrays(m, "torchvision") for m in (tuned, model))
    differ = {n for n in ours if ours[n].shape != theirs[n].shape}
    assert differ == {"conv1.weight", "fc.weight", "fc.bias"}
    for name in {*ours} - differ:
        np.testing.assert_array_equal(ours[name], theirs[name])
    grey = theirs["conv1.weight"].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours["conv1.weight"], grey, rtol=1e-6)
    assert len(tuned.preprocessing.mean) == 1
    expected = preprocessing.PREPROCESSINGS["imagenet"]
    plain = keras_resnet.ResNet18(weights="imagenet", include_top=False)
    assert plain.preprocessing == expected
    with pytest.raises(WeightsError, match="18, 34, 50, 101, 152"):
        small(weights="imagenet")


def test_keras_weights_are_verified_and_stride_as_they_must(
    server, monkeypatch, tmp_path
):
    from test_weights import write_legacy_h5

    theirs = keras.applications.ResNet50(
        weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg"
    )
    path = tmp_path / "w.h5"
    write_legacy_h5(path, theirs)
    name = "/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    server.files[name] = path.read_bytes()
    file = published.KERAS_URL.rpartition("/")[2]
    monkeypatch.setattr(published, "KERAS_URL", f"{server.url}/{file}")
    build = functools.partial(
        keras_resnet.ResNet50,
        include_top=False,
        pooling="avg",
        input_shape=(32, 32, 3),
    )
    with pytest.raises(DownloadError, match=published.KERAS_MD5[50][1]):
        build(weights="keras")
    md5 = hashlib.md5(server.files[name]).hexdigest()
    monkeypatch.setitem(published.KERAS_MD5, 50, ("", md5))
    model = build(weights="keras")
    assert loading.stride_of(model) == "1x1"
    assert model.preprocessing == preprocessing.PREPROCESSINGS["keras"]
    again = build(bottleneck_stride="1x1")
    keras_resnet.load_torch_weights(again, path)
    assert_equal(model, again)
    with pytest.raises(WeightsError, match="bottleneck_stride='1x1'"):
        build(weights="keras", bottleneck_stride="3x3")
    with pytest.raises(WeightsError, match="50, 101, 152"):
        keras_resnet.ResNet18(weights="keras")


def test_the_file_of_keras_is_whole_or_not_there(server, tmp_path, monkeypatch):
    url, content = f"{server.url}/net.h5", bytes(10_000)
    server.files["/net.h5"] = content
    md5 = hashlib.md5(content).hexdigest()
    models = tmp_path / "home" / "models"

    def names():
        return [p.name for p in models.iterdir() if p.suffix != ".lock"]

    server.cuts = [1000]
    with pytest.raises(DownloadError, match="downloaded: .*The same call"):
        hub.keras_file(url, md5)
    assert names() == []
    with pytest.raises(DownloadError, match="does not match .* 000"):
        hub.keras_file(url, "0" * 32)
    assert names() == []
    with pytest.raises(DownloadError, match="/none.h5 .*404"):
        hub.keras_file(f"{server.url}/none.h5", md5)
    server.requests.clear()
    (path,) = set(run_together(lambda: hub.keras_file(url, md5)))
    assert path == models / "net.h5"
    assert path.read_bytes() == content
    damage(path)
    assert hub.keras_file(url, md5).read_bytes() == content
    assert hub.keras_file(url, md5) == path
    assert names() == ["net.h5"]
    # Once for all who came together, once for the one that changed.
    assert len(server.requests) == 2
    path.unlink()
    monkeypatch.setattr(keras.utils, "get_file", full)
    with pytest.raises(DownloadError, match="written: No space.*KERAS_HOME"):
        hub.keras_file(url, md5)


@pytest.mark.parametrize(
    "oddity", [never_answer, state_no_number_of_bytes, redirect_to_itself]
)
def test_a_server_that_misbehaves_is_named_in_one_line(
    server, monkeypatch, oddity
):
    server.oddity = oddity
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    reason = "timed out" if oddity is never_answer else ""
    with one_line(f"^{server.url}/net.h5 cannot be downloaded: .*{reason}"):
        hub.keras_file(f"{server.url}/net.h5", "0" * 32)
    if oddity is never_answer:
        return  # huggingface_hub tries six times, ten seconds each
    with one_line(f"^{server.url}/owner/net/resolve.*cannot be downloaded"):
        hub.repository_file("owner/net", "model.safetensors")
