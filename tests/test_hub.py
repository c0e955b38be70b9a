"""Downloads, from a server on this machine that plays the hub."""

import concurrent.futures
import errno
import functools
import hashlib
import http.server
import json
import socket
import threading

import keras
import networks
import numpy as np
import pytest
from safetensors.numpy import save_file

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
TRANSFORMERS = {"model_type": "resnet", "downsample_in_bottleneck": False}


class Hub(http.server.ThreadingHTTPServer):
    """Serves `files`, as the Hugging Face hub does; `faults` spoils it."""

    # More may knock at once than the five for whom there is room by default.
    # The others would knock again after seconds.
    request_queue_size = 16

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.requests = []
        self.cuts = []  # after how many bytes each transfer breaks off
        self.tags = {}  # wrong checksums
        self.ranges = True

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

    def answer(self, head):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.command, self.path, wanted))
        path = self.path.removeprefix("/storage")
        content = server.files.get(path)
        if content is None:
            self.send_error(404)
            return
        sha = hashlib.sha256(content).hexdigest()
        large = path.endswith(".safetensors")
        if large and path == self.path:
            # Large files are elsewhere, under tags of another kind.
            self.send_response(302)
            self.send_header("Location", f"/storage{path}")
            self.send_header("X-Linked-Etag", f'"{server.tags.get(path, sha)}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        git = b"blob %d\0" % len(content) + content
        tag = "of another kind" if large else hashlib.sha1(git).hexdigest()
        self.send_header("ETag", f'"{server.tags.get(path, tag)}"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if head:
            return
        end = len(content)
        if server.cuts:
            end = start + server.cuts.pop(0)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub, "TIMEOUT", 10)
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        server.shutdown()
        thread.join()


small = functools.partial(
    networks.small,
    (1, 1),
    size=(32, 32),
    stem="imagenet",
    classes=7,
    classifier_activation=None,
)


def publish(server, tmp_path, config=TIMM, naming="torchvision", **options):
    """Puts a network in the repository owner/net and returns it."""
    model = small(**options)
    path = tmp_path / "published.safetensors"
    save_file(loading.to_arrays(model, naming), path)
    root = "/owner/net/resolve/main/"
    server.files[f"{root}config.json"] = json.dumps(config).encode()
    server.files[f"{root}model.safetensors"] = path.read_bytes()
    return model


WEIGHTS = "/owner/net/resolve/main/model.safetensors"


def assert_equal(a, b):
    for ours, theirs in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_good_file_is_cached(server, tmp_path, capsys):
    source = publish(server, tmp_path)
    model = small(weights="owner/net")
    assert_equal(model, source)
    # Progress was shown, up to the last byte.
    size = len(server.files[WEIGHTS])
    assert f"{size}/{size}" in capsys.readouterr().out
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
    # Another revision is another file.
    with pytest.raises(
        DownloadError, match="/resolve/v2/config.json: HTTP 404"
    ):
        small(weights="owner/net@v2")


def test_no_network(server, tmp_path, monkeypatch):
    source = publish(server, tmp_path)
    small(weights="owner/net")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    # What was downloaded once is there.
    assert_equal(small(weights="owner/net"), source)
    with pytest.raises(
        DownloadError, match="cannot be reached: .*refused"
    ) as e:
        small(weights="owner/other")
    assert "\n" not in str(e.value)
    assert address in str(e.value)


def test_404(server):
    with pytest.raises(DownloadError, match="HTTP 404 .* no such repository"):
        small(weights="owner/none")


def cached(tmp_path):
    return sorted(p.name for p in (tmp_path / "home").rglob("*") if p.is_file())


def test_wrong_checksum(server, tmp_path):
    publish(server, tmp_path)
    server.tags[WEIGHTS] = "0" * 64
    with pytest.raises(DownloadError, match="not the file it should be") as e:
        small(weights="owner/net")
    assert "sha256:000" in str(e.value)
    # Nothing of it stays.
    assert not [n for n in cached(tmp_path) if n.endswith("tensors")]
    config = "/owner/net/resolve/main/config.json"
    (tmp_path / "home/keras_resnet/owner--net/main/config.json").unlink()
    (
        tmp_path / "home/keras_resnet/owner--net/main/config.json.checksum"
    ).unlink()
    server.tags[config] = "1" * 40
    with pytest.raises(DownloadError, match="git:111"):
        small(weights="owner/net")
    server.tags[config] = "none"
    with pytest.raises(DownloadError, match="gives no checksum"):
        small(weights="owner/net")


def test_truncated_then_resumed(server, tmp_path):
    source = publish(server, tmp_path)
    size = len(server.files[WEIGHTS])
    # One whole transfer (of config.json), one cut, and none after it.
    server.cuts = [10_000, 1000, 0]
    with pytest.raises(DownloadError, match=f"1000 of {size} bytes. The same"):
        small(weights="owner/net")
    assert [n for n in cached(tmp_path) if n.endswith("tensors")] == [
        n for n in cached(tmp_path) if n.startswith(".partial")
    ]
    server.requests.clear()
    assert_equal(small(weights="owner/net"), source)
    gets = [r[2] for r in server.requests if r[0] == "GET"]
    assert gets == ["bytes=1000-"] * 2  # and where that one led
    assert not [n for n in cached(tmp_path) if n.startswith(".partial")]


def test_interrupted_transfers_go_on_by_themselves(server, tmp_path):
    source = publish(server, tmp_path)
    server.cuts = [10_000, 1000, 2000]
    assert_equal(small(weights="owner/net"), source)
    starts = {r[2] for r in server.requests if r[0] == "GET"}
    assert starts == {None, "bytes=1000-", "bytes=3000-"}


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    source = publish(server, tmp_path)
    server.ranges = False
    server.cuts = [10_000, 1000]
    assert_equal(small(weights="owner/net"), source)


def test_a_file_that_changed_in_the_cache_is_replaced(server, tmp_path):
    source = publish(server, tmp_path)
    small(weights="owner/net")
    (path,) = (tmp_path / "home").rglob("model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert_equal(small(weights="owner/net"), source)


def test_one_of_several_downloads(server, tmp_path):
    publish(server, tmp_path)
    together = threading.Barrier(8)

    def run(_):
        together.wait()
        return hub.repository_file("owner/net", "model.safetensors")

    # The lock is the system's and of an open file: to it threads are as
    # processes.
    with concurrent.futures.ThreadPoolExecutor(8) as workers:
        (path,) = set(workers.map(run, range(8)))
    assert path.read_bytes() == server.files[WEIGHTS]
    transfers = [r for r in server.requests if r[:2] == ("GET", WEIGHTS)]
    assert len(transfers) == 1


def test_a_full_disk_is_not_the_network(server, tmp_path, monkeypatch):
    publish(server, tmp_path)

    def full(path, mode="r"):
        if path.name.startswith(".partial") and "b" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode)

    monkeypatch.setattr(hub, "open", full, raising=False)
    with pytest.raises(DownloadError, match="written: No space.*KERAS_HOME"):
        small(weights="owner/net")


def test_transformers_repository(server, tmp_path):
    options = {"bottleneck": True}
    source = publish(server, tmp_path, TRANSFORMERS, "transformers", **options)
    images = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "resample": 3,
    }
    root = "/owner/net/resolve/main/"
    server.files[f"{root}preprocessor_config.json"] = json.dumps(
        images
    ).encode()
    model = small(weights="owner/net", **options)
    assert_equal(model, source)
    found = model.preprocessing
    assert (found.size, found.resize) == (224, 256)
    assert found.interpolation == "bicubic"
    with pytest.raises(WeightsError, match="bottleneck_stride='3x3'"):
        small(weights="owner/net", bottleneck_stride="1x1", **options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        # The same tensors, another computation.
        ({**TIMM, "architecture": "resnetaa50"}, "holds 'resnetaa50'"),
        ({"model_type": "vit"}, "holds 'vit'"),
        ({"architecture": "resnet18"}, "not understood"),
        ([], "not understood"),
        ({**TRANSFORMERS, "hidden_act": "gelu"}, "another activation"),
        (
            {**TIMM, "model_args": {"drop_rate": 0.1, "output_stride": 8}},
            "by output_stride=8. ",
        ),
        ({**TIMM, "model_args": {"act_layer": "silu"}}, "act_layer='silu'"),
        ({**TIMM, "global_pool": "catavgmax"}, "global_pool='catavgmax'"),
        ({**TIMM, "model_args": {"global_pool": "max"}}, "global_pool='max'"),
        (
            {
                **TIMM,
                "pretrained_cfg": {
                    **TIMM["pretrained_cfg"],
                    "crop_mode": "squash",
                },
            },
            "crop_mode='squash'",
        ),
    ],
)
def test_other_networks_are_refused(server, tmp_path, config, message):
    publish(server, tmp_path, config)
    with pytest.raises(WeightsError, match=message):
        small(weights="owner/net")


@pytest.mark.parametrize(
    "settings",
    [
        {"global_pool": "avg", "model_args": {"num_classes": 7}},
        {"global_pool": "", "num_classes": 0},
    ],
)
def test_settings_that_change_nothing_are_taken(server, tmp_path, settings):
    publish(server, tmp_path, {**TIMM, **settings}, include_top=False)
    small(weights="owner/net", include_top=False)


def test_imagenet_is_torchvisions(server, monkeypatch, tmp_path):
    model = keras_resnet.ResNet18(input_shape=(32, 32, 3))
    path = tmp_path / "w.safetensors"
    save_file(loading.to_arrays(model, "torchvision"), path)
    root = "/timm/resnet18.tv_in1k/resolve/main/"
    cfg = {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "input_size": [3, 224, 224],
        "crop_pct": 0.875,
        "interpolation": "bilinear",
    }
    config = {"architecture": "resnet18", "pretrained_cfg": cfg}
    server.files[f"{root}config.json"] = json.dumps(config).encode()
    server.files[f"{root}model.safetensors"] = path.read_bytes()
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
    options = {
        "weights": "keras",
        "include_top": False,
        "pooling": "avg",
        "input_shape": (32, 32, 3),
    }
    with pytest.raises(DownloadError, match=published.KERAS_MD5[50][1]):
        keras_resnet.ResNet50(**options)
    md5 = hashlib.md5(server.files[name]).hexdigest()
    monkeypatch.setitem(published.KERAS_MD5, 50, ("", md5))
    model = keras_resnet.ResNet50(**options)
    assert loading.stride_of(model) == "1x1"
    assert model.preprocessing == preprocessing.PREPROCESSINGS["keras"]
    again = keras_resnet.ResNet50(
        **{**options, "weights": None}, bottleneck_stride="1x1"
    )
    keras_resnet.load_torch_weights(again, path)
    assert_equal(model, again)
    with pytest.raises(WeightsError, match="bottleneck_stride='1x1'"):
        keras_resnet.ResNet50(**{**options, "bottleneck_stride": "3x3"})
    with pytest.raises(WeightsError, match="50, 101, 152"):
        keras_resnet.ResNet18(weights="keras")
