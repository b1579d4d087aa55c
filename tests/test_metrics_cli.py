"""`python -m common.metrics A B`: other people's images, the numbers that eval.py prints, one line per mistake."""

import importlib
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import plots
from common.data import load_images
from common.errors import UserError
from common.metrics import __main__ as cli
from common.metrics import distances, extractors
from common.metrics.images import quantise
from tests.helpers import smoke_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*singular covariance"),
    pytest.mark.filterwarnings("ignore:.*torch.jit"),
]
LENET = ["--extractor", "lenet", "--dataset", "synthetic"]


def write_images(folder, pixels, names=None):
    """PNGs of uint8 (N, H, W) or (N, H, W, C)."""
    folder = Path(folder)
    for i, image in enumerate(pixels):
        file = folder / (names[i] if names else f"{i:03d}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


def noise(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


class Means(torch.nn.Module):
    """Four features of colour images, and logits if asked."""

    def __init__(self, logits=False, wrong=None):
        super().__init__()
        self.logits, self.wrong = logits, wrong

    def forward(self, x):
        features = torch.cat([x.mean((2, 3)), x[:, 0, :1, 0]], 1)[:, :, None, None]
        if self.wrong == "scalar":
            return features.mean()
        if self.wrong == "nan":
            return (features - 1).sqrt()
        return (features, 3 * x[:, :, 0, 0]) if self.logits else features


def trace(file, net, size=8):
    torch.jit.trace(net, torch.rand(2, 3, size, size), check_trace=False).save(str(file))
    return str(file)


# --- the numbers


@pytest.mark.parametrize("folder", ["sagan_wgangp", "egan"])
def test_the_numbers_are_those_of_eval(folder, here, capsys):
    """Of an exported sample against the same real images, key by key, from PNGs and from the NPZ."""
    flags = {"egan": ["--dataset", "synthetic", "--width-g", 4, "--width-d", 4]}.get(folder, [])
    trained = smoke_run(folder, "X", *flags)["args"]
    eval_main = importlib.import_module(f"{folder}.eval").main
    of_eval = eval_main(["--ckpt", "X", "--n", "64"])
    eval_main(["--ckpt", "X", "--n", "64", "--export", "A"])
    real = load_images("synthetic", "data", "test", trained["size"], trained["channels"])
    batches = [real.images_at(torch.arange(len(real)))]
    plots.export_samples(batches, "test")
    Path("test/samples.npz").rename("test.npz")
    capsys.readouterr()
    for places in (["A", "test"], ["A/samples.npz", "test.npz"]):
        found = cli.main([*places, *LENET, "--out", f"{len(places[0])}/scores.json"])
        assert len(found) >= 6 and any(key.startswith("class_counts") for key in found)
        for key, value in found.items():
            assert value == of_eval[key], key
        assert "fid_lenet_random_64_test" in found
        result = json.loads(Path(f"{len(places[0])}/scores.json").read_text())
        assert result["metrics"] == found and result["env"]
        assert (result["generated"], result["reference"]) == tuple(places)
        assert (result["generated_images"], result["reference_images"]) == (64, len(real))
        assert result["extractor"] == "lenet_random"
    out = capsys.readouterr().out
    assert "A/samples.npz: 64 images; test.npz: 512; features: lenet_random" in out
    assert f"fid_lenet_random_64_test {found['fid_lenet_random_64_test']:.4f}" in " ".join(
        out.split()
    )


def test_it_is_started_by_python_m(python, here):
    for name in "AB":
        np.savez(f"{name}.npz", arr_0=noise(20, 8, 8, 3, seed=ord(name)))
    done = python("-m", "common.metrics", "A.npz", "B.npz", *LENET)
    assert done.returncode == 0 and "precision_lenet_random_20_B" in done.stdout, done.stderr
    done = python("-m", "common.metrics", "A.npz", "C.npz", *LENET)
    assert done.returncode == 2 and done.stderr == "error: no folder or file C.npz\n"


def test_n_is_of_A_and_spread_evenly(here):
    a, b = noise(30, 8, 8), noise(40, 8, 8, seed=1)
    np.savez("A.npz", images=a)
    np.savez("third.npz", images=a[::3])
    np.savez("B.npz", images=b)
    found = cli.main(["A.npz", "B.npz", *LENET, "--n", "10"])
    assert found == cli.main(["third.npz", "B.npz", *LENET]) and "fid_lenet_random_10_B" in found
    with pytest.raises(UserError, match="--n 31: A.npz has 30 images"):
        cli.main(["A.npz", "B.npz", *LENET, "--n", "31"])


def test_a_folder_is_read_with_all_below_it_and_batches_do_not_matter(here):
    a, b = noise(30, 8, 8, 3), noise(40, 8, 8, 3, seed=1)
    names = [f"{'x' if i < 7 else 'y/z'}/{i:02d}.png" for i in range(30)]
    write_images("A", a, names)
    np.savez("A.npz", images=a)
    np.savez("B.npz", arr_0=b)
    expected = cli.main(["A.npz", "B.npz", *LENET])
    found = cli.main(["A", "B.npz", *LENET, "--batch-size", "7"])
    assert found.pop("class_counts_lenet_random_30") == expected.pop("class_counts_lenet_random_30")
    assert found == pytest.approx(expected, abs=1e-6)
    assert expected["fid_lenet_random_30_B"] > 0


def test_wide_images_are_taken_whole_unless_a_size_is_asked_for(here):
    a = noise(12, 8, 14, 3)
    write_images("A", a)
    np.savez("A.npz", images=a)
    for images in (cli.load("A", None, None), cli.load("A.npz", None, None)):
        x = images.images_at(torch.arange(12))
        assert torch.equal(x, quantise(torch.from_numpy(a).permute(0, 3, 1, 2) / 127.5 - 1))
    square = torch.from_numpy(a[:, :, 3:11]).permute(0, 3, 1, 2) / 127.5 - 1
    for images in (cli.load("A", 8, None), cli.load("A.npz", 8, None)):
        assert torch.equal(quantise(images.images_at(torch.arange(12))), quantise(square))
    tall = [cli.load(place, 4, 1).images_at(torch.arange(12)) for place in ("A", "A.npz")]
    assert tall[0].shape == (12, 1, 4, 4) and (tall[0] - tall[1]).abs().max() < 2.1 / 127.5


# --- features of one's own


@pytest.mark.parametrize("logits", [False, True])
def test_a_torchscript_file_gives_the_features(here, logits):
    a, b = noise(30, 8, 8), noise(40, 8, 8, 3, seed=1)
    np.savez("A.npz", images=a)
    np.savez("B.npz", images=b)
    net = Means(logits)
    file = trace("my.net.pt", net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cli.main(["A.npz", "B.npz", "--extractor", file])
        again = cli.main(["A.npz", "B.npz", "--extractor", file])  # from the cache
    (key,) = [key for key in found if key.startswith("fid")]
    assert key.startswith("fid_my-net_") and key.endswith("_30_B") and again == found
    grey = torch.from_numpy(a)[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
    colour = torch.from_numpy(b).permute(0, 3, 1, 2) / 127.5 - 1
    x, y = (Means()(images).flatten(1) for images in (grey, colour))
    expected = distances.frechet_distance(*distances.moments(y), *distances.moments(x))
    assert found[key] == pytest.approx(expected, rel=1e-4)
    scores = [value for key, value in found.items() if key.startswith("is_")]
    assert len(scores) == logits
    if logits:
        assert scores[0] == pytest.approx(distances.inception_score(3 * grey[:, :, 0, 0])[0])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda f: trace(f, Means(wrong="scalar")), r"gives features \(\) of images \(30, 3, 8, 8"),
        (lambda f: trace(f, Means(wrong="nan")), "gives features that are not finite"),
        (
            lambda f: trace(f, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)), 4),
            r"fails on images \(30, 3, 8, 8\) \(.*mat1 and mat2",
        ),
        (lambda f: Path(f).write_bytes(b"x" * 99), "is no TorchScript module"),
        (lambda f: torch.save({"a": torch.ones(2)}, f), "is no TorchScript module"),
        (lambda f: None, "choose one of auto, lenet, inception, efficientnet, or a Torch"),
    ],
)
def test_a_file_that_gives_none(here, make, message):
    for name in "AB":
        np.savez(f"{name}.npz", images=noise(30, 8, 8))
    make("net.pt")
    with pytest.raises(UserError, match=f"--extractor net.pt:? {message}") as e:
        cli.main(["A.npz", "B.npz", "--extractor", "net.pt"])
    assert "\n" not in str(e.value)


def test_a_module_of_other_precision_gets_float32(here):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)).double()
    traced = torch.jit.trace(net, torch.rand(2, 3, 8, 8).double())
    traced.save("net.pt")
    features, logits = extractors.load_extractor("net.pt", "folder")(torch.rand(4, 1, 8, 8))
    assert features.shape == (4, 3) and features.dtype == torch.float32 and logits.shape == (4, 0)


def test_auto_without_any_extractor_is_an_error(here, monkeypatch, capsys):
    monkeypatch.setattr(extractors, "_answers", lambda url: False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    np.savez("A.npz", images=noise(30, 8, 8))
    with pytest.raises(UserError, match="--extractor auto: there is none"):
        cli.main(["A.npz", "A.npz", "--extractor", "auto"])
    err = capsys.readouterr().err
    assert "warning: no feature extractor: folder has no class labels" in err
    with pytest.raises(UserError, match="--extractor auto goes on without it"):
        cli.main(["A.npz", "A.npz"])  # Inception, as pytorch-fid takes


# --- mistakes


def test_images_of_different_sizes_are_refused_or_resized_on_request(here):
    write_images("A", noise(10, 8, 8), [f"a{i}.png" for i in range(10)])
    write_images("A", noise(10, 9, 12), [f"b{i}.png" for i in range(10)])
    np.savez("B.npz", images=noise(20, 8, 8, seed=1))
    line = "A has images of different sizes: a0.png is 8 x 8, b0.png 12 x 9. --size 8 takes"
    with pytest.raises(UserError, match=line):
        cli.main(["A", "B.npz", *LENET])
    assert cli.main(["A", "B.npz", *LENET, "--size", "8"])["fid_lenet_random_20_B"] > 0


def test_a_photograph_that_lies_on_its_side_has_the_size_that_is_seen(here):
    write_images("A", noise(4, 8, 12))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(1, 12, 8)[0]).save("A/turned.jpg", exif=exif)
    assert cli.load("A", None, None).images_at(torch.arange(5)).shape == (5, 1, 8, 12)


def test_A_and_B_of_other_shapes_get_a_warning(here, capsys):
    np.savez("A.npz", images=noise(20, 8, 8))
    np.savez("B.npz", images=noise(20, 9, 8, 3))
    cli.main(["A.npz", "B.npz", *LENET])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "of A are (1, 8, 8), of B (3, 9, 8)" in line and "--size and --channels" in line
    cli.main(["A.npz", "B.npz", *LENET, "--size", "8", "--channels", "1"])
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"mu": np.ones(3), "sigma": np.ones((3, 3))}, "has mu, sigma: `images` or `arr_0`"),
        ({"images": np.ones((9, 8, 8, 3))}, r"`images` is \(9, 8, 8, 3\) of float64; uint8"),
        ({"arr_0": noise(9, 3, 8, 8)}, r"`arr_0` is \(9, 3, 8, 8\) of uint8"),
        ({"images": noise(9, 8)}, r"`images` is \(9, 8\)"),
        ({"images": noise(0, 8, 8)}, "has no images"),
        ({"images": noise(3, 8, 8)}, "--n 4 or more"),
        (b"PK\x03\x04 cut short", "can't read A.npz"),
    ],
)
def test_npz_of_another_form(here, arrays, message):
    if isinstance(arrays, bytes):
        Path("A.npz").write_bytes(arrays)
    else:
        np.savez("A.npz", **arrays)
    np.savez("B.npz", images=noise(20, 8, 8))
    with pytest.raises(UserError, match=message) as e:
        cli.main(["A.npz", "B.npz", *LENET])
    assert "\n" not in str(e.value)


def test_too_few_real_images_are_named_as_such(here):
    np.savez("A.npz", images=noise(20, 8, 8))
    np.savez("B.npz", images=noise(3, 8, 8))
    with pytest.raises(UserError, match="20 samples, 3 real images: .* and as many real images"):
        cli.main(["A.npz", "B.npz", *LENET])


def test_files_that_are_no_images(here):
    write_images("A", noise(5, 8, 8))
    np.savez("B.npz", images=noise(20, 8, 8))
    whole = Path("A/003.png").read_bytes()
    Path("A/003.png").write_bytes(whole[:-40])  # its header is whole
    with pytest.raises(UserError, match=r"can't decode A/003.png \(.*\): replace or remove it"):
        cli.main(["A", "B.npz", *LENET])
    Path("A/003.png").write_text("no image")
    line = r"1 of 5 images in A can't be decoded: 003.png \(not an image\). Replace or remove them$"
    with pytest.raises(UserError, match=line):
        cli.main(["A", "B.npz", *LENET])
    Path("empty").mkdir()
    with pytest.raises(UserError, match="no images under empty"):
        cli.main(["empty", "B.npz", *LENET])


def test_the_json_overwrites_nothing(here, monkeypatch):
    Path("scores.json").write_text("mine")
    monkeypatch.setattr(cli, "score", lambda *a: pytest.fail("hours of work"))
    with pytest.raises(UserError, match="scores.json exists already: .*--out"):
        cli.main(["A", "B", *LENET, "--out", "scores.json"])
    assert Path("scores.json").read_text() == "mine"


@pytest.mark.parametrize("flag, value", [("--n", "0"), ("--size", "0"), ("--batch-size", "-1")])
def test_numbers_out_of_range(here, flag, value):
    with pytest.raises(UserError, match=f"{flag} {value}: must be at least 1"):
        cli.main(["A", "B", flag, value])
