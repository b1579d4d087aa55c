"""Evaluating one checkpoint: from where, to where, with which features, and what is left if it
fails."""

import importlib
import json
import math
import os
import re
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bigan import eval as bigan_eval
from bigan import train as bigan_train
from cagan import eval as cagan_eval
from cagan import train as cagan_train
from cagan.metrics import ConditionalScores
from common import data, download, evaluate
from common.errors import UserError
from common.metrics import distances
from common.metrics import extractors
from common.metrics import images as m
from common.metrics import lenet
from common.runs import newest_checkpoint
from sagan_wgangp import eval as sagan_eval
from sagan_wgangp import train as sagan_train

pytestmark = pytest.mark.filterwarnings("ignore:.*singular covariance")
DATA = Path(__file__).parent / "data"
SHORT = [
    "--steps",
    "2",
    "--log-every",
    "2",
    "--sample-every",
    "2",
    "--save-every",
    "2",
    "--batch-size",
    "8",
    "--size",
    "16",
]
SMALL = {
    "began": ["--width", "8", "--encoder", "conv", "--encoder-weights", "none", "--code-dim", "16"],
    "bigan": ["--width", "4", "--z-dim", "8"],
    "cagan": ["--width", "8", "--convs", "1", "--z-dim", "16"],
    "egan": ["--width-g", "16", "--width-d", "16", "--size", "8", "--eval-batch", "16"],
    "sagan_wgangp": ["--width", "8"],
}
MEASURE = {"bigan": ["--bn-batches", "2"]}


@pytest.fixture(autouse=True)
def no_other_extractor(monkeypatch):
    """Neither Inception's weights nor the wheels of EfficientNet, and a LeNet in a second."""
    monkeypatch.setattr(extractors, "_answers", lambda url: False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setattr(lenet, "default_plan", lambda count: (6, 16))


def picture(c, rng, colour):
    """Bright above, in the middle or below."""
    pixels = rng.integers(0, 128, (12, 12, 3) if colour else (12, 12), np.uint8)
    pixels[4 * c : 4 * c + 4] += 100
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Own images: labelled/ has three classes of colour photographs, unlabelled/ the same without
    classes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (root / "unlabelled").mkdir()
    for c, name in enumerate(("sky", "sea", "land")):
        (root / "labelled" / name).mkdir(parents=True)
        for i in range(40):
            image = picture(c, rng, colour=True)
            image.save(root / "labelled" / name / f"{i:02d}.png")
            image.save(root / "unlabelled" / f"{name}{i:02d}.png")
    return root


def train(folder, where, out, *more):
    module = importlib.import_module(f"{folder}.train")
    dataset = ["--dataset", "folder", "--data-dir", str(where)]
    return module.main([*dataset, *SHORT, *SMALL[folder], "--out", str(out), *more])


def measured(path):
    """The result file, which must be JSON for every reader."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


# --- from where, to where


def test_checkpoint_of_a_run_directory(here, monkeypatch):
    for name in (
        "runs/began/old/last.pt",
        "runs/began/new/last.pt",
        "runs/began/new/best.pt",
        "runs/began/empty/x",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    os.utime("runs/began/old/last.pt", (1, 1))
    assert newest_checkpoint("began") == Path("runs/began/new/last.pt")
    path = evaluate.checkpoint_path
    assert path(None, "began") == path("runs/began/new", "began") == Path("runs/began/new/last.pt")
    assert (
        path("runs/began/old/last.pt", "began")
        == path("runs/began/old", "began")
        == Path("runs/began/old/last.pt")
    )
    best = ("best.pt", "last.pt")
    assert (
        path(None, "began", best)
        == path("runs/began/new", "began", best)
        == Path("runs/began/new/best.pt")
    )
    assert path("runs/began/old", "began", best).name == "last.pt"
    with pytest.raises(UserError, match="empty: no best.pt or last.pt in this directory"):
        path("runs/began/empty", "began", best)
    monkeypatch.setenv("HOME", str(here))
    assert path("~/runs/began/old", "began") == here / "runs/began/old/last.pt"


def test_results_go_beside_the_checkpoint_but_never_into_the_checkout(here, repo, monkeypatch):
    Path("r").mkdir()
    assert evaluate.output_dir("r/last.pt", "mdma") == Path("r")
    assert not Path("runs").exists()
    where = evaluate.output_dir(repo / "mdma/results/t30.pt", "mdma")
    assert where == Path("runs/mdma/t30") and where.is_dir()
    Path("results").mkdir()  # a directory of the user's of that name
    assert evaluate.output_dir("results/last.pt", "mdma") == Path("results")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # somebody else's run
    places = [evaluate.output_dir(run, "mdma") for run in ("r/last.pt", "a/r/last.pt", "r/last.pt")]
    assert places[0] == places[2] != places[1]  # one run doesn't overwrite the other's
    assert all(re.fullmatch(r"runs/mdma/r-[0-9a-f]{6}", str(p)) and p.is_dir() for p in places)


@pytest.mark.parametrize(
    "dataset, trained_on, typed, expected",
    [
        ("folder", "there", None, "there"),
        ("folder", "there", "other", "other"),
        ("fashion-mnist", "gone", None, "gone"),
        ("folder", "gone", "other", "other"),
    ],
)
def test_data_directory_is_the_trainings(here, dataset, trained_on, typed, expected):
    Path("there").mkdir()
    trained = SimpleNamespace(dataset=dataset, data_dir=trained_on)
    evaluate.set_data_dir(trained, SimpleNamespace(data_dir=typed, ckpt="x.pt"))
    assert trained.data_dir == expected


def test_data_directory_that_is_gone_is_named(here):
    trained = SimpleNamespace(dataset="celeba", data_dir="old/place")
    with pytest.raises(UserError, match="x.pt was trained on images in old/place, .*--data-dir"):
        evaluate.set_data_dir(trained, SimpleNamespace(data_dir=None, ckpt="x.pt"))


def test_outputs_are_named_also_after_an_error(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text("{}")
    with pytest.raises(KeyError), evaluate.named_outputs(tmp_path):
        (tmp_path / "samples.png").write_text("x")
        raise KeyError
    assert capsys.readouterr().err == f"eval: wrote samples.png in {tmp_path}\n"
    with evaluate.named_outputs(tmp_path):
        pass
    assert capsys.readouterr().err == ""


def test_a_result_is_json_whatever_it_holds(tmp_path):
    checkpoint = {"step": 3, "args": {"gamma": 0.5}}
    metrics = {"a": math.nan, "b": [1.0, math.inf], "c": 2}
    evaluate.write_eval(
        tmp_path, Path("x.pt"), checkpoint, metrics, torch.device("cpu"), table=[{"d": -math.inf}]
    )
    result = measured(tmp_path / "eval_3.json")
    assert result["metrics"] == {"a": None, "b": [1.0, None], "c": 2} and result["table"] == [
        {"d": None}
    ]
    assert (
        result["train_args"] == {"gamma": 0.5}
        and result["checkpoint"] == "x.pt"
        and result["env"]["torch"]
    )


@pytest.mark.parametrize("folder", ["began", "egan", "sagan_wgangp"])
def test_samples_are_drawn_as_the_flags_say(folder, monkeypatch):
    script = importlib.import_module(f"{folder}.eval")
    asked = []
    monkeypatch.setattr(script, "sample", lambda *words: asked.append(words[-3:]))
    monkeypatch.setattr(script, "image_scores", lambda *words, **more: ({}, None, None))
    trained = SimpleNamespace(dataset="synthetic", data_dir="data")
    args = SimpleNamespace(n=8, seed=3, batch_size=5, amp="bf16")
    script.measure(None, trained, args, torch.device("cpu"), None, None)
    assert asked == [(3, 5, "bf16")]


def test_an_eval_keeps_the_numbers_that_it_does_not_measure(tmp_path):
    """As a second one with another --n does, also if it is stopped on its way."""

    def write(metrics, gamma=0.5, **more):
        checkpoint = {"step": 3, "args": {"gamma": gamma, "betas": (0.0, 0.9)}}
        device = torch.device("cpu")
        path = evaluate.write_eval(tmp_path, Path("x.pt"), checkpoint, metrics, device, **more)
        return measured(path)

    first = write({"fid_lenet_10k_test": 3.0, "is_lenet_10k": math.nan})
    assert "earlier" not in first
    assert write({})["metrics"] == first["metrics"]
    both = write({"fid_lenet_50k_test": 2.0, "is_lenet_10k": 5.0})
    assert list(both["metrics"].items()) == [
        ("fid_lenet_50k_test", 2.0),
        ("is_lenet_10k", 5.0),
        ("fid_lenet_10k_test", 3.0),
    ]
    assert both["earlier"] == {"fid_lenet_10k_test": first["env"]}
    again = write({"is_lenet_10k": 6.0})
    assert again["metrics"] == both["metrics"] | {"is_lenet_10k": 6.0}
    assert again["earlier"] == both["earlier"] | {"fid_lenet_50k_test": both["env"]}

    assert write({"psnr_rgb8_1k": 1.0}, part="train")["metrics"] == {"psnr_rgb8_1k": 1.0}
    assert {path.name for path in tmp_path.iterdir()} == {"eval_3.json", "eval_3_train.json"}
    assert measured(tmp_path / "eval_3.json") == again
    assert write({"is_lenet_10k": 7.0}, gamma=0.7)["metrics"] == {"is_lenet_10k": 7.0}
    (tmp_path / "eval_3.json").write_text("{")
    assert write({"is_lenet_10k": 8.0})["metrics"] == {"is_lenet_10k": 8.0}


# --- own images, every folder, no flag but the run


@pytest.mark.parametrize("folder", SMALL)
def test_a_labelled_folder(folder, pictures, here, capsys):
    """Data directory and size are the training's; a LeNet is trained the first time."""
    train(folder, pictures / "labelled", "X")
    before = set(Path("X").iterdir())
    capsys.readouterr()
    metrics = importlib.import_module(f"{folder}.eval").main(
        ["--ckpt", "X", "--n", "70", *MEASURE.get(folder, [])]
    )
    err = capsys.readouterr().err
    new = sorted(path.name for path in set(Path("X").iterdir()) - before)
    assert "eval_2.json" in new and "samples.png" in new
    assert all(name in err.splitlines()[-1] for name in new) and err.splitlines()[-1].startswith(
        "eval: wrote"
    )
    assert measured("X/eval_2.json")["metrics"] == metrics
    (key,) = [key for key in metrics if key.startswith("fid_lenet") and "class" not in key]
    assert key.endswith("_70_train") and metrics[key] > 0  # there are no test images
    assert not any(key.endswith("_test") for key in metrics)
    (counts,) = [value for key, value in metrics.items() if key.startswith("class_counts_lenet")]
    assert sum(counts) == 70 and len(counts) == 3
    assert len(list((pictures / "labelled").glob("lenet_folder-*.pt"))) == 1
    assert {path.name for path in here.iterdir()} == {"X"}


@pytest.mark.parametrize(
    "folder", [folder for folder in SMALL if folder != "cagan"]
)  # it needs classes
def test_an_unlabelled_folder_without_any_extractor(folder, pictures, here, monkeypatch, capsys):
    """All that needs no features is drawn and measured; a line says what is missing and how to get
    it."""
    monkeypatch.setattr(lenet, "fit", lambda *args, **more: pytest.fail("it decodes all images"))
    if folder in ("egan", "sagan_wgangp"):  # also while it trains
        train(folder, pictures / "unlabelled", "X", "--fid-samples", "16")
        assert capsys.readouterr().err.count("warning: no feature extractor") == 1
    else:
        train(folder, pictures / "unlabelled", "X")
        capsys.readouterr()
    eval_main = importlib.import_module(f"{folder}.eval").main
    metrics = eval_main(["--ckpt", "X", "--n", "16", *MEASURE.get(folder, [])])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert "folder has no class labels" in line and "pip install efficientnet-lite-pytorch" in line
    assert measured("X/eval_2.json")["metrics"] == metrics and not any(
        "fid" in key for key in metrics
    )
    assert bool(metrics) == (folder == "bigan") and Path("X/samples.png").exists()
    Path("X/samples.png").unlink()
    for kind in ("lenet", "efficientnet"):  # asked for by name: an error, and at once
        with pytest.raises(UserError, match="LeNet|EfficientNet"):
            eval_main(["--ckpt", "X", "--n", "16", "--extractor", kind, *MEASURE.get(folder, [])])
        assert not Path("X/samples.png").exists()


def test_a_folder_that_was_moved(pictures, here):
    (here / "old").symlink_to(pictures / "unlabelled")
    train("sagan_wgangp", "old", "X")
    (here / "old").rename(here / "new")
    with pytest.raises(UserError, match="X was trained on images in old, which is not there"):
        sagan_eval.main(["--ckpt", "X", "--n", "16"])
    sagan_eval.main(["--ckpt", "X", "--n", "16", "--data-dir", "new"])
    sagan_eval.main(["--ckpt", "X", "--samples", "4"])  # needs no data
    assert Path("X/eval_2.json").exists() and Path("grid.png").exists()


@pytest.fixture
def half_labelled(pictures, here):
    """train/ has classes, test/ the same images without."""
    shutil.copytree(pictures / "labelled", "own/train")
    shutil.copytree(pictures / "unlabelled", "own/test")


def test_bigan_leaves_scores_by_label_out_where_test_images_have_none(half_labelled):
    logged = train("bigan", "own", "X")
    metrics = bigan_eval.main(["--ckpt", "X", "--n", "16", "--bn-batches", "2"])
    for scores in (logged, metrics):
        kinds = {key.split("_")[0] for key in scores}
        assert "recon" in kinds and not kinds & {"1nn", "probe"}


def test_cagan_says_that_its_scores_are_by_class(half_labelled, monkeypatch):
    message = "test images of folder have no classes, .* put them into the classes' folders, or "
    with pytest.raises(UserError, match=message + "give --fid-samples 0"):
        train("cagan", "own", "X", "--fid-samples", "16")
    train("cagan", "own", "X")
    other = extractors.load_extractor("lenet", "synthetic")
    other.kind = "inception"  # which needs no labels
    monkeypatch.setattr(evaluate, "load_extractor", lambda *args, **more: other)
    with pytest.raises(UserError, match=message + "give --split train"):
        cagan_eval.main(["--ckpt", "X", "--n", "16"])
    assert not Path("X/samples.png").exists()
    cagan_eval.main(["--ckpt", "X", "--n", "16", "--split", "train"])


# --- MNIST: labels, no shipped LeNet


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """FashionMNIST test images in files named as MNIST's: 800 to train on, 200 to test."""
    arrays = np.load(DATA / "fashion_mnist_test_1000.npz")
    folder, sums = tmp_path / "mnist", {}
    folder.mkdir()
    for name, part in (("train", slice(800)), ("t10k", slice(800, None))):
        images, labels = arrays["images"][part], arrays["labels"][part].astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
            raw = head + values.tobytes()
            (folder / f"{name}-{kind}-ubyte").write_bytes(raw)
            sums[f"{name}-{kind}-ubyte"] = download._md5(raw)
    monkeypatch.setitem(download.MD5, "mnist", sums)
    return tmp_path


def test_mnist_gets_a_lenet_of_its_own(mnist, here, capsys):
    """The paper's own set of cagan and bigan: trained from --fid-samples on, found again by
    eval."""
    flags = ["--dataset", "mnist", "--data-dir", str(mnist), *SHORT]
    last = cagan_train.main([*flags, *SMALL["cagan"], "--fid-samples", "20", "--out", "X"])
    announced = (
        f"there is no {mnist / 'lenet_mnist.pt'} yet: training a LeNet on 800 images of mnist"
    )
    assert announced in capsys.readouterr().err
    metrics = cagan_eval.main(["--ckpt", "X", "--n", "20"])
    assert "training a LeNet" not in capsys.readouterr().err
    (key,) = [key for key in metrics if key.startswith("fid_per_class")]
    assert key in last and key.startswith("fid_per_class_lenet_")  # one network, one key
    assert any(key.startswith("conditional_accuracy_lenet") for key in metrics)
    assert measured("X/eval_2.json")["metrics"] == metrics


def test_nothing_measured_is_lost(mnist, here, monkeypatch):
    """BiGAN's accuracies cost minutes, and stand in the file before the FID is tried."""
    bigan_train.main(
        ["--dataset", "mnist", "--data-dir", str(mnist), *SHORT, *SMALL["bigan"], "--out", "X"]
    )

    def full(*args, **kwargs):
        raise UserError("no memory left")

    monkeypatch.setattr(bigan_eval, "image_scores", full)
    with pytest.raises(UserError, match="no memory left"):
        bigan_eval.main(["--ckpt", "X", "--n", "16", "--bn-batches", "2"])
    found = measured("X/eval_2.json")["metrics"]
    assert {key.split("_")[0] for key in found} >= {"1nn", "probe", "recon", "latent"}


# --- small classes


def test_a_class_with_one_image(tmp_path, capsys):
    """It has no covariance: it is left out of the mean over classes, which says so."""
    images = torch.randint(
        256, (60, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.cat(
        [torch.tensor([1]), torch.arange(59) % 2 * 2]
    )  # 1 of class 1, the others 0 or 2, none of 3
    names = ["a", "b", "c", "d"]
    image_set = data.ImageSet("synthetic", "test", 16, 1, names, images, labels)
    scores = ConditionalScores(
        image_set, torch.device("cpu"), tmp_path, extractors.load_extractor("lenet", "synthetic")
    )
    err = capsys.readouterr().err
    assert "warning: fid_per_class leaves out b, d: it needs two test images" in err
    assert "with test images of which d has 0 and a 30, so it measures this, too" in err
    fake = m.collect(scores.extractor, [image_set.images_at(torch.arange(40))])
    asked = torch.arange(40) % 4
    found = scores(*fake, asked)
    parts = [
        distances.frechet_distance(
            *distances.moments(scores.real[0][labels == c]), *distances.moments(fake[0][asked == c])
        )
        for c in (0, 2)
    ]
    assert found["fid_per_class_lenet_random_40_test"] == pytest.approx(sum(parts) / 2)
    assert len(scores.details(fake[1], asked)["conditional_accuracies_lenet_random_40"]) == 4


def test_tracker_of_a_folder_is_of_rank_0_alone(pictures, here, monkeypatch):
    """Under torchrun the other processes must not train a LeNet each."""
    seen = []
    monkeypatch.setattr(
        sagan_train, "Tracker", lambda *args: seen.append(args) or (lambda batches, n: {})
    )
    monkeypatch.setattr(sagan_train, "init_processes", lambda *given: (1, 1))
    (here / "Y/samples").mkdir(parents=True)
    train("sagan_wgangp", pictures / "unlabelled", "Y", "--fid-samples", "16")
    assert not seen


def test_mean_and_deviation_in_words():
    assert evaluate.format_mean_sd([1.0, 2.0, 3.0]) == "2 ± 1"
    assert evaluate.format_mean_sd([0.125, float("nan"), 0.375], ".2f", 100) == "25.00 ± 17.68"
    assert evaluate.format_mean_sd([0.5]) == "0.5"
    assert evaluate.format_mean_sd([float("nan")]) == "–"


def test_markdown_table():
    table = evaluate.markdown_table(["seed", "FID"], [[0, "1.5"], [1, "–"]])
    assert table == "| seed | FID |\n| --- | --- |\n| 0 | 1.5 |\n| 1 | – |\n"


def test_metrics_are_printed_with_four_digits_and_without_tables(capsys):
    evaluate.print_metrics(
        {"a": 0.123456, "bb": [0.9599999785, 1.0, 3], "table": [[1]], "n": 7, "s": None}
    )
    assert capsys.readouterr().out.splitlines() == [
        "a     0.1235",
        "bb    [0.9600, 1.0000, 3]",
        "n     7",
        "s     None",
    ]
