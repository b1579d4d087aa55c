"""PAN's scripts: what flags are refused, pairs of files, and T of a user's own images."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import UserError
from common.runs import load_checkpoint, read_log
from pan import eval as pan_eval
from pan import reproduce, train, transform
from pan.pictures import whole
from tests.helpers import check_tables_outlive_runs, smoke_run

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--net inpainting", "--net inpainting"),
        ("--task inpainting --net unet6", "--task inpainting"),
        ("--task inpainting --size 64 --conditional", "--conditional"),
        ("--pixel rim-l2", "rim-l2"),
        ("--loss context-encoder", "rim-l2"),
        ("--task inpainting --size 64 --pixel rim-l2", "give --loss context-encoder"),
        ("--task inpainting --size 64 --loss context-encoder --lambda-gan 0", "non-saturating GAN"),
        ("--task inpainting --size 64 --loss cgan", "set by --loss cgan"),
        ("--lambda-gan 0 --lambdas 0 0 0 0", "nothing to learn"),
        ("--task pairs --skip-bad", "--skip-bad"),
        ("--lambdas 1 1 1 -1", "--lambdas -1"),
        ("--label 0", "--label 0"),
        ("--direction BtoA", "--direction BtoA is for pairs .* --task deraining"),
        ("--loss l2 --conditional", "leave no D"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        train.parse_args(["--smoke", *flags.split()])


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--task inpainting --size 96", "96x96"),
        ("--net unet6 --size 96", "multiples of 64"),
        ("--net unet --size 64", "multiples of 256"),
        ("--size 16", "16x16"),
    ],
)
def test_a_size_that_a_network_cannot_take_is_refused(tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        smoke_run("pan", tmp_path / "run", *flags.split())


AUTHORS = dict(  # of PAN: github.com/WANG-Chaoyue/PAN, facades
    lambdas=(5.0, 1.5, 1.5, 1.0),
    m=3.0,
    lambda_gan=1.0,
    adversarial="saturating",
    label=0.9,
    conditional=False,
    pixel="none",
    lambda_pixel=25.0,
    lr_factor=1.0,
    lr=2e-4,
    beta1=0.5,
    same_batch=False,
    size=256,
    width=64,
    width_t=64,
    bottleneck=4000,
    dropout=0.0,
    steps=1001 * 50,
    batch_size=4,
)
NO_P = dict(lambdas=(0.0, 0.0, 0.0, 0.0), m=0.0)
PIXELS = NO_P | dict(lambda_gan=0.0, lambda_pixel=1.0)
CGAN = NO_P | dict(
    conditional=True, adversarial="nonsaturating", label=1.0
)  # Isola et al. 2017, §3.1, §3.3
CONTEXT_ENCODER = NO_P | dict(
    adversarial="nonsaturating", label=1.0, pixel="rim-l2", lr_factor=10.0
)


@pytest.mark.parametrize(
    "loss, own",
    [
        ("pan", {}),
        ("pa-cgan", dict(conditional=True)),  # Table III
        ("l1", PIXELS | dict(pixel="l1")),
        ("l2", PIXELS | dict(pixel="l2")),
        ("cgan", CGAN),
        ("pix2pix", CGAN | dict(pixel="l1", lambda_pixel=100.0)),  # its authors' code: λ = 100
        ("l2-cgan", CGAN | dict(pixel="l2", lambda_pixel=100.0)),  # departure 10
        # Pathak et al. 2016, λ_rec and λ_adv; T's rate is ten times D's
        ("context-encoder", CONTEXT_ENCODER | dict(lambda_pixel=0.999, lambda_gan=0.001)),
    ],
)
def test_each_loss_has_the_numbers_of_its_source(loss, own):
    task = "inpainting" if loss == "context-encoder" else "pairs"
    args = train.parse_args(["--task", task, "--loss", loss])
    expected = AUTHORS | own
    assert {name: getattr(args, name) for name in expected} == expected


def test_a_task_brings_its_own_network():
    for task, net in (("inpainting", "inpainting"), ("deraining", "deraining"), ("edges", "unet")):
        assert train.parse_args(["--task", task]).net == net
    assert train.parse_args([]).task == "pairs"


def test_quick_is_of_its_task():
    widths = [
        train.parse_args(["--quick", *words]).width_t for words in ([], ["--task", "deraining"])
    ]
    assert train.parse_args(["--quick"]).task == "inpainting" and widths[0] > widths[1]


def test_flags_that_older_runs_ignored_do_not_keep_them_from_going_on(tmp_path):
    saved = train.Args(task="deraining", net="deraining", direction="BtoA", conditional=True)
    saved = vars(saved) | train.LOSSES["l2"]
    (tmp_path / "args.json").write_text(json.dumps(saved))
    assert train.parse_args(["--resume", str(tmp_path)]).direction == "BtoA"


def test_quick_takes_own_pairs_as_they_are(tmp_path):
    draw_pairs(tmp_path)
    for flags in ([], ["--task", "pairs"]):
        words = ["--quick", "--dataset", "folder", "--data-dir", str(tmp_path), *flags]
        args = train.parse_args(words)
        pairs = train.load_data(args)
        assert len(pairs) == 3 and pairs.batch(0, 2, 0)[1].mean() < -0.5  # B is dark
        args.channels = pairs.channels
        T, _ = train.build(args)
        assert T(pairs.batch(0, 2, 0)[0]).shape == (2, 3, 64, 64)
    assert train.parse_args([*words[:-2], "--task", "inpainting"]).net == "inpainting"


def test_a_net_is_chosen_that_can_take_the_size():
    for size, net in ((64, "unet6"), (192, "unet6"), (256, "unet"), (512, "unet"), (100, "unet")):
        assert train.parse_args(["--task", "edges", "--size", str(size)]).net == net


def test_a_set_of_pairs_is_no_set_of_single_images():
    args = train.parse_args(["--quick", "--dataset", "facades"])
    with pytest.raises(
        UserError, match="facades holds pairs, but --task inpainting .* --task pairs"
    ):
        train.load_data(args)
    args = train.parse_args(["--quick", "--dataset", "facades", "--task", "pairs"])
    assert (args.task, args.net, args.size) == ("pairs", "unet6", 64)


def test_a_loss_without_p_has_no_hinge_at_any_size():
    for flags, m in (([], 3), (["--loss", "cgan", "--task", "deraining"], 0), (["--m", "2"], 2)):
        assert train.parse_args(["--quick", *flags]).m == m


def draw_pairs(root, n=4, size=64):
    rng = np.random.default_rng(0)
    for i in range(n):
        both = rng.integers(0, 256, (size, 2 * size, 3), np.uint8)
        both[:, size:] //= 4  # B is dark
        root.mkdir(parents=True, exist_ok=True)
        Image.fromarray(both).save(root / f"{i}.png")


def test_pairs_of_files_train_in_both_directions(tmp_path):
    draw_pairs(tmp_path / "data")
    words = f"--task pairs --dataset folder --net unet6 --size 64 --data-dir {tmp_path / 'data'}"
    targets = {}
    for direction in ("AtoB", "BtoA"):
        flags = [*words.split(), "--direction", direction, "--steps", 2]
        checkpoint = smoke_run("pan", tmp_path / direction, *flags)
        assert checkpoint["args"]["channels"] == 3
        args = train.Args(**checkpoint["args"])
        targets[direction] = train.load_data(args, "test").pairs_at([0])[1].mean().item()
        metrics = pan_eval.main(["--ckpt", str(tmp_path / direction)])
        assert metrics["psnr_rgb8_1"] > 0 and "input_psnr_rgb8_1" in metrics
    seen = pan_eval.main(["--ckpt", str(tmp_path / "AtoB"), "--n", "1", "--split", "train"])
    results = [
        json.loads((tmp_path / f"AtoB/eval_2{part}.json").read_text()) for part in ("", "_train")
    ]
    assert [result["split"] for result in results] == ["test", "train"]
    assert results[1]["metrics"] == seen and seen != results[0]["metrics"]
    assert seen.keys() == results[0]["metrics"].keys()
    assert targets["AtoB"] < targets["BtoA"] - 0.5


def test_flags_of_the_data_reach_it(tmp_path):
    """Without jitter and mirroring a training pair is the image itself, whatever the step."""

    def pairs(*flags):
        args = train.parse_args(["--smoke", "--task", "denoising", "--size", "64", *flags])
        return train.load_data(args)

    plain = pairs("--no-jitter", "--no-flip")
    first = plain.batch(0, 512, 0)[1].flatten(1).sort(0).values
    assert torch.equal(first, plain.batch(1, 512, 0)[1].flatten(1).sort(0).values)  # a whole epoch
    for flag in ("--no-jitter", "--no-flip"):
        moved = pairs(flag)
        first = moved.batch(0, 512, 0)[1].flatten(1).sort(0).values
        assert not torch.equal(first, moved.batch(1, 512, 0)[1].flatten(1).sort(0).values)


# --- one checkpoint


def test_pictures_are_of_held_out_pairs(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(train, "in_rows", lambda *images: drawn.append(images))
    args = train.Args(**smoke_run("pan", tmp_path / "run", "--steps", 1)["args"])
    x, y = train.load_data(args, "test").pairs_at(range(12))
    ((x_shown, _, y_shown),) = drawn
    assert torch.equal(x_shown, x) and torch.equal(y_shown, y)


@pytest.mark.parametrize("flags", [("--m", "9"), ("--loss", "l1")])
def test_resumed_is_the_same_run(tmp_path, flags):
    flags = [*flags, "--log-every", 1]
    whole = smoke_run("pan", tmp_path / "whole", *flags, "--steps", 6)
    smoke_run("pan", tmp_path / "parts", *flags, "--steps", 3)
    train.main(["--resume", str(tmp_path / "parts"), "--steps", "6"])
    parts = load_checkpoint(tmp_path / "parts/last.pt")
    names = {"T", "opt_T"} if "l1" in flags else {"T", "D", "opt_T", "opt_D"}
    assert whole["state"].keys() == parts["state"].keys() == names
    for name in names:
        torch.testing.assert_close(parts["state"][name], whole["state"][name], rtol=0, atol=0)
    lines = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    logs = [[line | {"seconds": 0} for line in log] for log in lines]
    assert logs[0] == logs[1] and len(logs[0]) == 6


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{task: a run directory}: de-raining at 32 pixels, in-painting at 64."""
    folder = tmp_path_factory.mktemp("runs")
    smoke_run("pan", folder / "deraining", "--channels", 3)
    smoke_run("pan", folder / "inpainting", "--task", "inpainting", "--size", 64)
    return {task: folder / task for task in ("deraining", "inpainting")}


def noise(path, width, height, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode).save(path)


def test_transform_keeps_names_sizes_and_order(runs, tmp_path):
    source, out = tmp_path / "mine", tmp_path / "out"
    for name, sides in (("b.png", (40, 32)), ("a.png", (32, 32)), ("sub/c.jpg", (33, 57))):
        noise(source / name, *sides)
    words = f"--ckpt {runs['deraining']} --transform {source} --out {out} --batch-size 2"
    pan_eval.main(words.split())
    made = sorted(str(p.relative_to(out)) for p in out.rglob("*.*"))
    assert made == ["a.png", "b.png", "sub/c.png"]
    T, _, _ = pan_eval.load(runs["deraining"] / "last.pt", torch.device("cpu"))
    for name in ("a.png", "b.png"):
        x = torch.from_numpy(np.array(Image.open(source / name))).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = (T(x.float() / 127.5 - 1) + 1) * 127.5
        found = torch.from_numpy(np.array(Image.open(out / name))).permute(2, 0, 1)[None]
        assert (found - expected).abs().max() <= 0.51, name


def test_sides_that_a_network_cannot_take_are_mirrored_and_cut(tmp_path, capsys):
    smoke_run("pan", tmp_path / "run", "--net", "unet6", "--size", 64, "--width-t", 2)
    noise(tmp_path / "mine/wide.png", 100, 20)
    noise(tmp_path / "mine/fits.png", 128, 64, "L")
    words = f"--ckpt {tmp_path / 'run'} --transform {tmp_path / 'mine'} --out {tmp_path / 'out'}"
    pan_eval.main(words.split())
    assert capsys.readouterr().err.count("of coloured ones it takes the luminance") == 1
    T, _, _ = pan_eval.load(tmp_path / "run/last.pt", torch.device("cpu"))
    grey = np.array(Image.open(tmp_path / "mine/wide.png").convert("L"), np.float32)
    wide = np.concatenate([grey, grey[:, -2:-30:-1]], 1)  # 28 columns more
    tall = np.concatenate([wide, wide[-2::-1], wide[1:], wide[-2:-8:-1]])
    found = transform.mirrored(torch.from_numpy(grey)[None], 64)
    assert torch.equal(found, torch.from_numpy(tall)[None]) and found.shape == (1, 64, 128)
    with torch.no_grad():
        expected = (T(torch.from_numpy(tall)[None, None] / 127.5 - 1) + 1) * 127.5
    found = np.array(Image.open(tmp_path / "out/wide.png"), np.float32)
    assert found.shape == (20, 100)
    assert np.abs(found - expected[0, 0, :20, :100].numpy()).max() <= 0.51
    assert Image.open(tmp_path / "out/fits.png").size == (128, 64)


def test_large_images_are_transformed_few_at_a_time(runs, tmp_path, monkeypatch):
    """A batch has no more pixels than --batch-size images of the training's 32x32."""
    for side, n in ((16, 9), (32, 9), (64, 5), (128, 2)):
        for i in range(n):
            noise(tmp_path / f"mine/{side:03}_{i}.png", side, side)
    batches = []
    monkeypatch.setattr(transform, "write", lambda T, batch, *_: batches.append(batch))
    words = f"--ckpt {runs['deraining']} --transform {tmp_path / 'mine'} --out {tmp_path / 'out'}"
    pan_eval.main([*words.split(), "--batch-size", "8"])
    found = [(images[0][1].shape[-1], len(images)) for images in batches]
    assert found == [
        (16, 8),
        (16, 1),
        (32, 8),
        (32, 1),
        (64, 2),
        (64, 2),
        (64, 1),
        (128, 1),
        (128, 1),
    ]


def test_transform_makes_of_an_image_what_T_was_trained_on():
    coloured = torch.rand(2, 3, 64, 64) * 2 - 1
    for task in ("colourisation", "deraining", "super-resolution"):
        x = transform.Transform(torch.nn.Identity(), task)(coloured)
        grey = coloured[:, 0] * 0.299 + coloured[:, 1] * 0.587 + coloured[:, 2] * 0.114
        expected = grey[:, None].expand_as(x) if task == "colourisation" else coloured
        assert torch.allclose(x, expected, atol=1e-6), task


def test_transform_says_that_depth_is_lost(runs, tmp_path, capsys):
    noise(tmp_path / "mine/a.png", 32, 32, "L")
    Image.fromarray(np.full((32, 32), 20000, np.uint16)).save(tmp_path / "mine/b.png")
    words = f"--ckpt {runs['deraining']} --transform {tmp_path / 'mine'} --out {tmp_path / 'out'}"
    pan_eval.main(words.split())
    assert f"16-bit grey images in {tmp_path / 'mine'}: 1 of 2" in capsys.readouterr().err


def test_what_cannot_be_transformed_is_named_and_the_rest_is_written(runs, tmp_path):
    source, out = tmp_path / "mine", tmp_path / "out"
    noise(source / "a.png", 64, 64, "L")
    noise(source / "wide.png", 80, 64, "L")
    (source / "z.png").write_text("no image")
    words = f"--ckpt {runs['inpainting']} --transform {source} --out {out}".split()
    with pytest.raises(UserError, match=r"wide.png is 80x64.*64x64 pixels. Resize.*2 such"):
        pan_eval.main(words)
    assert [p.name for p in out.iterdir()] == ["a.png"]
    before, after = (np.array(Image.open(folder / "a.png")) for folder in (source, out))
    changed = before != after
    assert changed[16:48, 16:48].mean() > 0.9
    changed[16:48, 16:48] = False
    assert not changed.any()
    with pytest.raises(UserError, match="not empty"):
        pan_eval.main(words)
    (tmp_path / "empty").mkdir()
    words[3] = str(tmp_path / "empty")
    with pytest.raises(UserError, match="no images"):
        pan_eval.main([*words[:-1], str(tmp_path / "new")])


def test_the_untouched_input_is_measured_against_the_truth(runs):
    """Of in-painting, against whole images: what x shows is equal in both."""
    args = pan_eval.Args(n=6)
    device = torch.device("cpu")
    T, trained, _ = pan_eval.load(runs["inpainting"] / "last.pt", device)
    trained.data_dir = "data"
    pairs = train.load_data(trained, "test")
    x, fake, y = next(pan_eval.transform_pairs(T, pairs, 6, trained, args, device))
    assert x.shape == fake.shape == y.shape == (6, 1, 64, 64)
    assert torch.equal(fake[..., :16, :], y[..., :16, :])
    metrics = pan_eval.measure(T, pairs, trained, args, device)

    def grey(images):
        return ((images + 1) * 127.5).round()

    squared = (grey(x) - grey(y)).square().mean((1, 2, 3))
    expected = (10 * torch.log10(255**2 / squared)).mean().item()
    assert metrics["input_psnr_grey8_6"] == pytest.approx(expected, abs=1e-3)
    assert torch.equal(whole("deraining", x, fake), fake)


@pytest.fixture
def negatives():
    """(T that makes negatives, held-out pairs, training arguments, x, y) of six pairs."""
    trained = train.parse_args(["--smoke"])
    pairs = train.load_data(trained, "test")
    return torch.neg, pairs, trained, *pairs.pairs_at(range(6))


def test_fid_of_the_input_is_of_the_input(negatives, monkeypatch):
    T, pairs, trained, x, _ = negatives
    scored = []

    def image_scores(extractor, real, batches, *words, **more):
        scored.append(torch.cat(batches))
        return {}, None, None

    monkeypatch.setattr(pan_eval, "load_extractor", lambda *a, **k: "extractor")
    monkeypatch.setattr(pan_eval, "image_scores", image_scores)
    pan_eval.measure(T, pairs, trained, pan_eval.Args(n=6), CPU)
    assert torch.equal(scored[0], -x) and torch.equal(scored[1], x)


def test_pictures_are_x_then_T_of_x_then_y(negatives, grids_of):
    T, pairs, trained, x, y = negatives
    drawn = grids_of(pan_eval.plots)
    pan_eval.draw(T, pairs, 6, trained, pan_eval.Args(), CPU, "x.png")
    assert torch.equal(drawn[0], torch.stack([x, -x, y], 1).flatten(0, 1))


def test_exported_pairs_are_under_their_names(negatives, tmp_path):
    T, pairs, trained, x, y = negatives
    pan_eval.export(T, pairs, trained, pan_eval.Args(n=6, export=str(tmp_path / "out")), CPU)
    with np.load(tmp_path / "out/samples.npz") as found:
        for name, images in (("x", x), ("images", -x), ("y", y)):
            levels = ((images + 1) * 127.5).permute(0, 2, 3, 1).numpy()
            assert np.abs(found[name] - levels).max() <= 0.51, name


# --- tables


def test_the_papers_tables():
    """Each ordering's rows are trained, and have a printed number that the paper says is better."""
    for table in reproduce.TABLES.values():
        for better, worse in table.orderings:
            assert {better, worse} <= set(table.rows)
            assert table.printed[better][1] > table.printed[worse][1]  # SSIM: in all of them
    assert len(reproduce.TABLE_3) == 6 and len(reproduce.TABLE_5) == 5


def test_verdicts_count_seeds():
    def line(row, psnr):
        scores = {"psnr": psnr} | {s: [0.5] * 2 for s in ("ssim", "uqi", "vif")}
        return {"row": row, "results": [{"seed": 0}, {"seed": 1}]} | scores

    lines = [line("PAN", [21.0, 22.0]), line("Context-Encoder", [20.0, 22.5])]
    sentences = reproduce.verdicts(reproduce.TABLES[4], lines)
    assert sentences[0] == "PAN above Context-Encoder in PSNR: partly (+0.2500, 1 of 2 seeds)"
    lines[0]["psnr"] = [21.0, 23.0]
    both = reproduce.verdicts(reproduce.TABLES[4], lines)
    assert both[0] == "PAN above Context-Encoder in PSNR: holds (+0.7500, 2 of 2 seeds)"
    assert (
        sentences[1] == "PAN above Context-Encoder in SSIM: does not hold (+0.0000, 0 of 2 seeds)"
    )

    lines[1] |= {"results": [{"seed": 1}], "psnr": [22.5]}  # seed 0 did not come through
    one = reproduce.verdicts(reproduce.TABLES[4], lines)
    assert one[0] == "PAN above Context-Encoder in PSNR: holds (+0.5000, 1 of 1 seeds)"


def test_a_row_that_a_table_lacks_is_refused_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "sweep", None)
    with pytest.raises(UserError, match="--only L2\\+cGAN: the rows are PAN,"):
        reproduce.main(["--only", "L2+cGAN", "--out", str(tmp_path)])


def test_training_pairs_are_measured_whole_beside_images_of_their_size(tmp_path):
    run = tmp_path / "run"
    smoke_run("pan", run, "--task", "deraining", "--size", "64")
    _, trained, _ = pan_eval.load(run / "last.pt", "cpu")
    pairs = train.load_data(trained, "train")
    assert pairs.images.size == 64 == pairs.pairs_at([0])[1].shape[-1]


def test_the_contest_is_read_from_the_log():
    log = [{"step": s, "P": float(s), "hinge_active": float(s <= 5)} for s in range(1, 21)]
    found = reproduce.contest([*log, {"step": 20, "pixel_l1": 0.1}], 20)
    assert found == {"P_2_steps": 19.5, "hinge_active_share": 0.25}
    assert reproduce.contest([{"step": 1, "pixel_l1": 0.1}], 1) == {}


def test_ours_stand_beside_the_papers_score_by_score():
    scores = {"psnr": [20.0], "ssim": [0.5], "uqi": [0.25], "vif": [0.125], "fid": [math.nan]}
    results = [{"seed": 0, "metrics": {"psnr_grey8_3": 20.0}}]
    line = {"row": "PAN", "runs": 1, "results": results} | scores
    text = reproduce.render(reproduce.TABLES[4], [line])
    cells = "20.00 | 21.85 | 0.5000 | 0.8307 | 0.2500 | 0.7956 | 0.1250 | 0.6104 | –"
    assert f"| PAN | {cells} |" in text and "PSNR is psnr_grey8_3" in text


@pytest.mark.parametrize("split", ["test", "train"])
def test_tables_are_of_the_split_asked_for(monkeypatch, split):
    monkeypatch.setattr(reproduce, "load", lambda *a: (None, SimpleNamespace(), None))
    monkeypatch.setattr(reproduce, "set_data_dir", lambda *a: None)
    monkeypatch.setattr(reproduce.train, "load_data", lambda trained, split="train": split)
    assert reproduce.load_run(Path("r"), SimpleNamespace(split=split), CPU)[1] == split


def test_a_table_is_trained_measured_and_drawn(tmp_path, monkeypatch):
    words = "--table4 --reduced --only PAN L2 --seeds 1 --jobs 1 --n 3"
    tiny = "--smoke --task inpainting --size 64 --steps 2 --dataset synthetic"
    monkeypatch.chdir(tmp_path)
    flags = [*words.split(), "--train-flags", tiny, "--out", str(tmp_path / "t")]
    lines = reproduce.main(flags)[4]
    assert [line["row"] for line in lines] == ["x, untouched", "PAN", "L2"]
    assert "NaN" not in Path("t/table4.json").read_text()  # of 3 images there is no FID
    assert json.loads(Path("t/table4.json").read_text())["rows"][1]["psnr"] == lines[1]["psnr"]
    of_pan, of_l2 = (line["results"][0]["metrics"] for line in lines[1:])
    log = read_log(Path("t/table4") / lines[1]["results"][0]["name"] / "log.jsonl")
    assert of_pan["P_1_steps"] == log[-1]["P"] and "hinge_active_share" not in of_l2
    text = Path("t/table4.md").read_text()
    assert "21.85" in text and "x, untouched" in text
    with Image.open("t/table4.png") as image:
        assert np.asarray(image).std() > 0
    check_tables_outlive_runs(
        "t/table4", ["../table4.md", "../table4.json"], lambda: reproduce.main(flags)
    )
