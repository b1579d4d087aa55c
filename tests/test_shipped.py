"""The weights that folders ship: drawn as READMEs say, small, and as good as their published scores."""

import importlib
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from bigan import eval as bigan_eval
from began import eval as began_eval
from cagan import eval as cagan_eval
from common import download
from common.data import load_images
from common.metrics import find_metric
from common.metrics.extractors import load_extractor
from common.metrics.images import collect, image_metrics, real_features
from common.metrics.pairs import pair_metrics
from common.metrics.toy import mode_metrics
from common.toys import mixture
from egan import eval as egan_eval
from pan import eval as pan_eval
from pan.train import load_data as load_pairs
from sagan_wgangp import eval as sagan_eval

REPO = Path(__file__).resolve().parent.parent
FOLDERS = sorted(p.parent.name for p in REPO.glob("*/train.py"))
CPU = torch.device("cpu")


def shipped(folder):
    return REPO / folder / "results" / ("t30.pt" if folder == "mdma" else "quick.pt")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with FashionMNIST's first 1,000 test images in data/, as both splits."""
    for name in (*FOLDERS, "common"):
        (tmp_path / name).symlink_to(REPO / name)
    arrays = np.load(REPO / "tests/data/fashion_mnist_test_1000.npz")
    sums = {}
    folder = tmp_path / "data" / "fashion-mnist"
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind, values in (("images-idx3", arrays["images"]), ("labels-idx1", arrays["labels"])):
            values = values.astype(np.uint8)
            head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
            (folder / f"{split}-{kind}-ubyte").write_bytes(head + values.tobytes())
            sums[f"{split}-{kind}-ubyte"] = download._md5(head + values.tobytes())
    monkeypatch.setitem(download.MD5, "fashion-mnist", sums)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_lines_of_the_readme_draw_samples(folder, clone):
    section = (REPO / folder / "README.md").read_text().partition("## Draw from the shipped")[2]
    lines = re.search(r"```python\n(.*?)```", section, re.S)[1]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 8
    exec(compile(lines, f"{folder}/README.md", "exec"), {})
    (picture,) = clone.glob("*.png")
    assert picture.stat().st_size > 2000


@pytest.mark.parametrize("folder", FOLDERS)
def test_make_samples_draws_them(folder, clone):
    makefile = (REPO / "Makefile").read_text()
    assert "$(PY) -m $*.eval --ckpt $*/results/$(SHIPPED) --samples $(DRAWN)" in makefile
    module = __import__(f"{folder}.eval", fromlist=["main"])
    where = str(shipped(folder).relative_to(REPO))
    module.main(["--ckpt", where, "--samples", "12", "--grid-out", "grid.png"])
    assert Path("grid.png").stat().st_size > 2000


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_shipped_file_is_small_and_has_its_log_and_scores(folder):
    most = 3.0 if folder == "bigan" else 1.0  # which ships an encoder, too
    assert shipped(folder).stat().st_size < most * 1e6
    if folder != "mdma":
        log = (shipped(folder).with_name("quick_log.jsonl")).read_text().splitlines()
        step = torch.load(shipped(folder), weights_only=True)["step"]
        assert json.loads(log[-1])["step"] == step == published(folder)["step"]


QUICK_FLAGS = {
    "began": [],
    "bigan": [],
    "cagan": ["--fid-samples", "0"],
    "egan": [],
    "pan": ["--task", "deraining"],
    "sagan_wgangp": [],
}


@pytest.mark.parametrize("folder, flags", QUICK_FLAGS.items())
def test_quick_is_what_the_shipped_weights_were_trained_with(folder, flags):
    """amp is the machine's and channels are the data's. mdma's t30.pt is longer than --quick, and its flags are older."""
    train = importlib.import_module(f"{folder}.train")
    found = json.loads(json.dumps(vars(train.parse_args(["--quick", *flags]))))
    expected = published(folder)["train_args"]
    del expected["amp"], expected["channels"]
    assert {name: found.get(name) for name in expected} == expected


# --- scores


def published(folder):
    return json.loads(shipped(folder).with_name("quick_eval.json").read_text())


IMAGES = {
    "began": lambda G, trained: began_eval.sample(G, 1000, trained, CPU),
    "bigan": lambda G, trained: bigan_eval.sample(G, 1000, trained, CPU),
    "cagan": lambda G, trained: cagan_eval.sample(G, torch.eye(10).repeat(100, 1), trained, CPU),
    "sagan_wgangp": lambda G, trained: sagan_eval.sample(G, 1000, trained, CPU),
}


@pytest.mark.parametrize("folder", IMAGES)
def test_samples_have_the_published_fid(folder, clone):
    """1,000 samples against 1,000 images; the published FID is of 10,000 against 10,000."""
    module = __import__(f"{folder}.eval", fromlist=["load"])
    loaded = module.load(shipped(folder), CPU)
    G, trained = loaded[0], loaded[-2]
    extractor = load_extractor("lenet", "fashion-mnist")
    real_set = load_images("fashion-mnist", "data", "test", trained.size, 1)
    real = real_features(extractor, real_set, device=CPU)
    fake = collect(extractor, IMAGES[folder](G, trained), 1000)
    fid = find_metric(image_metrics(real, fake, extractor.name, "test"), "fid_lenet")
    expected = find_metric(published(folder)["metrics"], "fid_lenet")
    assert 0.85 * expected < fid < 1.1 * expected, (fid, expected)


def test_egans_points_cover_the_published_modes():
    G, trained, _ = egan_eval.load(shipped("egan"), CPU)
    points = torch.cat(list(egan_eval.sample(G, 10_000, trained, CPU)))
    metrics = mode_metrics(points, mixture(trained.dataset))
    expected = published("egan")["metrics"]
    assert metrics["modes"] == find_metric(expected, "modes") == 8
    assert abs(metrics["high_quality"] - find_metric(expected, "high_quality")) < 0.03


def test_pan_takes_rain_away_as_published(clone):
    T, trained, _ = pan_eval.load(shipped("pan"), CPU)
    pairs = load_pairs(trained, "test")
    x, y = pairs.pairs_at(range(100))
    with torch.no_grad():
        psnr = find_metric(pair_metrics(T(x), y), "psnr_grey8")
    expected = find_metric(published("pan")["metrics"], "psnr_grey8")
    assert abs(psnr - expected) < 1, (psnr, expected)
