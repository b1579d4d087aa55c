"""MDMA's training and evaluation: each step against a plain one, checkpoints, generated jets, Table 1."""

import argparse
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import mse_loss

from common.cli import UserError
from common.cuda import GraphedStep
from common.rng import step_rng
from common.metrics.jets import efps, frechet_of_all, jet_mass, present, w1m_disjoint, wasserstein1
from common.runs import load_checkpoint, read_log
from mdma import eval as mdma_eval
from mdma import features, figures, train, twin
from mdma import jets as jets_module
from mdma.jets import JETNET_SIZES, bucketed_indices, load_jets
from mdma.tables import metric_lines

from . import bench_mdma


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """A figure costs more than the training here; tests/test_smoke.py draws them."""
    monkeypatch.setattr(train, "draw_features", lambda *a: None)
    monkeypatch.setattr(train, "curves", lambda *a, **k: None)


def smoke(out, *flags):
    return train.main(["--smoke", "--out", str(out), *map(str, flags)])


def state(path):
    return load_checkpoint(Path(path), "mdma")["state"]


# --- Algorithm


@pytest.mark.parametrize("matching", [0, 2])
def test_two_steps_equal_plain_ones(here, matching):
    """D with the old G, then G with the new D on the same noise, matched to the real mean field from before."""
    smoke("X", "--steps", 2, "--matching", matching, "--save-every", 2)
    args = argparse.Namespace(**load_checkpoint(Path("X/last.pt"), "mdma")["args"])
    torch.manual_seed(args.seed)
    G, D = train.build(args)
    jets = load_jets("synthetic", "t", 8, "data", "train")
    real = jets.particles[jets.mask]
    opt_G = torch.optim.Adam(G.parameters(), betas=(0.0, 0.999), eps=1e-14)
    opt_D = torch.optim.AdamW(D.parameters(), betas=(0.0, 0.999), eps=1e-14, weight_decay=0.01)
    for step in (1, 2):
        for opt in (opt_G, opt_D):
            opt.param_groups[0]["lr"] = 1e-4 * train.lr_factor(step, 2, 12)
        batch = jets[bucketed_indices(jets.n, 16, 0, step - 1)]
        longest = int(batch.n.max())
        x = (batch.particles[:, :longest] - real.mean(0)) / real.std(0)
        mask = batch.mask[:, :longest]
        z = torch.randn(x.shape, generator=step_rng(0, step))
        with torch.no_grad():
            fake = G(z, mask)
        real_score, real_field = D(x, mask)
        loss = mse_loss(real_score, torch.ones(16)) + mse_loss(D(fake, mask)[0], torch.zeros(16))
        opt_D.zero_grad()
        loss.backward()
        opt_D.step()
        score, field = D(G(z, mask), mask)
        loss = mse_loss(score, torch.ones(16)) / 2
        if matching:
            loss = loss + mse_loss(field, real_field.detach())
        opt_G.zero_grad()
        loss.backward()
        opt_G.step()
    for name, net in (("G", G), ("D", D)):
        for key, value in state("X/last.pt")[name].items():
            torch.testing.assert_close(
                value, net.state_dict()[key], rtol=0, atol=2e-6, msg=f"{name}.{key}"
            )


def test_matching_ends_after_its_steps(here, monkeypatch):
    weighed = []
    monkeypatch.setattr(
        train, "GraphedStep", lambda step, device: lambda *a: weighed.append(a[-1]) or step(*a)
    )
    smoke("X", "--steps", 4, "--matching", 3)
    assert weighed == [True, True, True, False]


def test_wgan_gp_and_vanilla_run(here):
    for objective in ("wgan-gp", "vanilla"):
        assert math.isfinite(smoke(objective, "--objective", objective, "--steps", 2)["L_D"])


def test_learning_rate_warms_up_then_falls_as_a_cosine():
    factor = [
        train.lr_factor(step, 2000, 3_000_000)
        for step in (0, 1000, 2000, 1_500_000, 3_000_000, 4_000_000)
    ]
    assert factor == pytest.approx([0, 0.5, 1, 0.5, 0, 0], abs=2e-6)


def test_steps_without_a_learning_rate_are_said(here, capsys):
    smoke("X", "--steps", 12)
    assert "--lr-total" not in capsys.readouterr().err
    smoke("Y", "--steps", 13)
    line = "--lr-total 12: the learning rate is 0 from there on, so the last 1 of 13 steps teach"
    assert line in capsys.readouterr().err


def test_optimisers_are_the_papers(here):
    smoke("X", "--steps", 2)
    saved = state("X/last.pt")
    for name, decay in (("opt_G", 0), ("opt_D", 0.01)):
        (group,) = saved[name]["param_groups"]
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.0, 0.999), 1e-14, decay)


def test_batches_are_padded_to_their_largest_n_only_but_not_with_paper_code(here, monkeypatch):
    seen = []
    monkeypatch.setattr(
        train, "GraphedStep", lambda step, device: lambda *a: seen.append(a[1]) or step(*a)
    )
    n = load_jets("synthetic", "t", 8, "data", "train").n
    smoke("X", "--steps", 5, "--batch-size", 8)
    for step, mask in enumerate(seen):
        batch = n[bucketed_indices(n, 8, 0, step)]
        assert mask.shape == (8, batch.max()) and torch.equal(mask.sum(1), batch)
    assert len({mask.shape for mask in seen}) > 1
    seen.clear()
    smoke("Y", "--steps", 3, "--paper-code")
    assert {mask.shape[1] for mask in seen} == {8}


def test_the_generator_learns_at_each_so_many_th_step(here, monkeypatch):
    trained = []
    monkeypatch.setattr(
        train, "GraphedStep", lambda step, device: lambda *a: trained.append(a[-2]) or step(*a)
    )
    smoke("X", "--steps", 7, "--g-every", 3, "--ema", 0.9)
    assert trained == [False, False, True, False, False, True, False]
    assert {float(p["step"]) for p in state("X/last.pt")["opt_G"]["state"].values()} == {2}
    smoke("Y", "--steps", 6, "--g-every", 3, "--ema", 0.9)  # the average rests with G
    seven, six = state("X/last.pt")["G_ema"], state("Y/last.pt")["G_ema"]
    assert all(torch.equal(seven[key], six[key]) for key in six)


def test_between_the_generators_steps_the_log_has_its_last_losses(here):
    smoke("X", "--steps", 7, "--g-every", 3, "--log-every", 1)
    first, *_, third, fourth, fifth, sixth, seventh = read_log(Path("X/log.jsonl"))
    assert "L_G" not in first and "L_match" not in first
    for name in ("L_G", "L_match"):
        assert 0 < third[name] == fourth[name] == fifth[name] != sixth[name] == seventh[name]


def test_ema_is_the_average_that_evaluation_uses(here):
    smoke("X", "--steps", 4, "--ema", 0.9, "--save-every", 1)
    smoke("plain", "--steps", 3, "--save-every", 1)
    before, after = state("plain/last.pt")["G"], state("X/last.pt")
    G, *_ = mdma_eval.load("X/last.pt", torch.device("cpu"))
    used = G.state_dict()
    assert all(torch.equal(used[k], after["G_ema"][k]) for k in used)
    smoke("three", "--steps", 3, "--ema", 0.9, "--save-every", 1)
    average = state("three/last.pt")["G_ema"]
    assert all(
        torch.equal(before[k], v) for k, v in state("three/last.pt")["G"].items()
    )  # training is the same
    for key, value in after["G"].items():
        torch.testing.assert_close(
            after["G_ema"][key], 0.9 * average[key] + 0.1 * value, rtol=1e-5, atol=1e-7
        )
    assert not torch.equal(after["G"]["out.weight"], after["G_ema"]["out.weight"])


@pytest.mark.parametrize("ema, net", [(0, "G"), (0.5, "G_ema")])
def test_what_is_measured_while_training_by_hand(here, ema, net):
    """At the last step: three jets for each validation jet, by the averaged generator if there is one, always of the
    same noise; the Fréchet distance of the first ones, as many as there are validation jets.
    """
    logged = smoke("X", "--ema", ema, "--valid-batches", 3, "--lr", 0.01, "--lr-total", 100)
    saved = state("X/last.pt")
    G, _ = train.build(argparse.Namespace(**load_checkpoint(Path("X/last.pt"), "mdma")["args"]))
    G.load_state_dict(saved[net])
    real = load_jets("synthetic", "t", 8, "data", "valid").particles
    fake = features.generate(G, 3 * 150, saved["stats"], 8, step_rng(0, 0))
    w1m = [wasserstein1(jet_mass(real), jet_mass(part)).item() for part in fake.split(150)]
    assert logged["w1m_valid"] == pytest.approx(sum(w1m) / 3, rel=1e-6)
    assert logged["frechet_valid"] == pytest.approx(
        frechet_of_all(efps(real), efps(fake[:150])), rel=1e-6
    )


# --- checkpoints


FIRST = {"w1m": 1e9, "frechet": 1e9, "lowest": 1e9}


@pytest.mark.parametrize(
    "best, w1m, frechet, better, after",
    [
        (FIRST, 7.0, 5.0, True, (7.0, 5.0, 5.0)),  # the first one, whatever it is
        (
            (2.0, 1.0, 1.0),
            1.9,
            1.2,
            True,
            (1.9, 1.2, 1.0),
        ),  # at 1.2 times the lowest not yet vetoed
        ((2.0, 1.0, 1.0), 1.9, 1.21, False, (2.0, 1.0, 1.0)),  # vetoed
        (
            (2.0, 1.0, 1.0),
            2.0,
            1.0,
            False,
            (2.0, 1.0, 1.0),
        ),  # the older one of two equal ones stays
        ((2.0, 1.0, 1.0), 2.1, 0.9, False, (2.0, 1.0, 0.9)),  # the lowest FPD is kept in mind
        (
            (2.0, 1.0, 1.0),
            9.0,
            0.8,
            True,
            (9.0, 0.8, 0.8),
        ),  # 1.0 > 1.2 · 0.8: best.pt is vetoed now
        (
            (2.0, 1.2, 1.0),
            3.0,
            1.1,
            False,
            (2.0, 1.2, 1.0),
        ),  # best.pt itself is just within the factor
        ((2.0, 1.3, 1.0), 9.0, 1.25, False, (2.0, 1.3, 1.0)),  # both are vetoed
    ],
)
def test_best_by_hand(best, w1m, frechet, better, after):
    names = ("w1m", "frechet", "lowest")
    before = dict(best) if best is FIRST else dict(zip(names, best))
    kept = dict(before)
    assert train.choose_best(before, w1m, frechet, 1.2) == (better, dict(zip(names, after)))
    assert before == kept
    assert train.choose_best(dict(zip(names, (2.0, 1.0, 1.0))), 1.0, 2.0, veto=2.0)[
        0
    ]  # the factor is the flag's


def test_a_generator_that_runs_away_ends_the_run_in_one_line(here, monkeypatch):
    """Its jets are finite, but not their EFPs."""

    def generate(*a):
        jets = features.generate(*a)
        jets[..., 0] *= 1e20
        return jets

    monkeypatch.setattr(train, "generate", generate)
    with pytest.raises(UserError, match="step 6: frechet_valid is inf. No checkpoint had been"):
        smoke("X")
    assert not list(Path("X").glob("*.pt"))


def test_default_steps_are_3000_epochs_of_the_training_jets(here, monkeypatch):
    """JetNet's 70 % for training: 973 steps per epoch for top jets, 969 for gluons, 933 for light quarks."""
    for jet_type, steps in (("t", 973), ("g", 969), ("q", 933), ("w", 968), ("z", 967)):
        assert train.steps_per_epoch(int(0.7 * JETNET_SIZES[jet_type]), 128) == steps
    assert train.EPOCHS == 3000 and train.parse_args([]).steps is None
    monkeypatch.delitem(train.SMOKE, "steps")
    monkeypatch.setattr(train, "EPOCHS", 3)
    assert smoke("X", "--batch-size", 300)["step"] == 3 * 2  # 700 // 300
    assert json.loads(Path("X/args.json").read_text())["steps"] == 6
    assert train.main(["--resume", "X", "--steps", "7"])["step"] == 7
    with pytest.raises(UserError, match="a batch of 701 from 700 jets"):
        smoke("Y", "--batch-size", 701)
    assert not Path("Y").exists()  # or the mended command would be refused


@pytest.mark.parametrize(
    "veto, steps, best",
    [
        (1.2, [2, 4, 8, 10], {"w1m": 6.0, "frechet": 0.5, "lowest": 0.5}),
        (2.5, [2, 4, 6, 8, 12], {"w1m": 1.0, "frechet": 0.7, "lowest": 0.5}),
    ],
)
def test_the_best_checkpoint_has_the_lowest_w1m_unless_fpd_vetoes_it(
    here, monkeypatch, veto, steps, best
):
    """W1M: 5 4 3 2 6 1; FPD: 1 1.1 2 1 .5 .7. With 1.2 the third is a lucky mass, and the fifth vetoes the fourth."""
    w1m, fpd = iter([5.0, 4.0, 3.0, 2.0, 6.0, 1.0]), iter([1.0, 1.1, 2.0, 1.0, 0.5, 0.7])
    monkeypatch.setattr(train, "w1m_disjoint", lambda *a: (next(w1m), 0))
    monkeypatch.setattr(train, "frechet_of_all", lambda *a: next(fpd))
    saved = []
    real_save = train.Run.save

    def save(run, step, name="last.pt", **values):
        saved.append((name, step))
        real_save(run, step, name, **values)

    monkeypatch.setattr(train.Run, "save", save)
    smoke("X", "--steps", 12, "--sample-every", 2, "--save-every", 12, "--veto", veto)
    assert saved == [("best.pt", step) for step in steps] + [("last.pt", 12)]
    assert state("X/last.pt")["best"] == best


@pytest.mark.parametrize("fused, device", [(True, "meta"), (None, "cpu")])
def test_a_run_of_another_device_counts_its_steps_on_this_one(fused, device):
    """Here "meta" is the GPU. torch leaves the counts of an unfused Adam on the CPU."""
    opt = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, device="meta"))])
    p = opt.param_groups[0]["params"][0]
    opt.state[p] = {"step": torch.tensor(3.0)}
    train.set_options(opt, lr=0.5, capturable=bool(fused), fused=fused)
    assert opt.state[p]["step"].device.type == device
    assert [opt.param_groups[0][name] for name in ("lr", "fused")] == [0.5, fused]


def test_a_resumed_run_has_the_same_bytes(here):
    smoke("whole", "--steps", 12)
    smoke("parts", "--steps", 6)
    train.main(["--resume", "parts", "--steps", "12"])
    whole, parts = state("whole/last.pt"), state("parts/last.pt")
    for name in ("G", "D"):
        assert all(torch.equal(a, b) for a, b in zip(whole[name].values(), parts[name].values()))
    assert whole["best"] == parts["best"]
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in Path(run, "log.jsonl").read_text().splitlines()
        ]
        for run in ("whole", "parts")
    ]
    assert logs[0] == logs[1]


def write_toys(path, jets=1000):
    """A file of one's own: the first of the toy jets."""
    particles, mask = jets_module._toys("t", 8)
    np.savez(path, particles=particles[:jets], mask=mask[:jets])


@pytest.mark.parametrize("flags", [[], ["--train-jets", 300]])
def test_jets_that_have_changed_since_the_training(here, capsys, monkeypatch, flags):
    """As when more are simulated: the split is another then, and test jets were trained on."""
    for name in ("draw_features", "draw_jets", "curves", "table1", "metric_lines"):
        monkeypatch.setattr(mdma_eval, name, lambda *a, **k: "")
    monkeypatch.setattr(mdma_eval, "jet_metrics", lambda *a, **k: {})
    write_toys("own.npz", 900)
    smoke("X", "--dataset", "own.npz", "--steps", 6, *flags)
    mdma_eval.main(["--ckpt", "X", "--n", "30"])
    assert "than those that" not in capsys.readouterr().err
    write_toys("own.npz")
    mdma_eval.main(["--ckpt", "X", "--n", "30"])
    line = r"own.npz has other training jets \(700\) than those that the checkpoint learnt from"
    assert re.search(line, capsys.readouterr().err)
    with pytest.raises(
        UserError, match="the run in X was trained on other data: (jets|particles) "
    ):
        train.main(["--resume", "X", "--steps", "12"])
    write_toys("own.npz", 900)
    assert train.main(["--resume", "X", "--steps", "12"])["step"] == 12


RETIRED = {"jitter": 0.0, "head_start": 0, "adaptive": False, "adaptive_after": 50_000}


def make_older(run, **flags):
    """Turn a run directory into one of before --jitter, --head-start and --adaptive went."""
    args = json.loads(Path(run, "args.json").read_text()) | RETIRED | flags
    Path(run, "args.json").write_text(json.dumps(args))
    checkpoint = torch.load(Path(run, "last.pt"), weights_only=True)
    checkpoint["args"] = args
    checkpoint["state"] |= {"balance": torch.tensor(0.7), "pause": 1}
    torch.save(checkpoint, Path(run, "last.pt"))


def test_a_run_with_flags_that_went_goes_on_if_they_changed_nothing(here):
    smoke("whole", "--ema", 0.9)
    smoke("old", "--steps", 6, "--ema", 0.9)
    make_older("old")
    mdma_eval.main(["--ckpt", "old/last.pt", "--samples", "4"])
    train.main(["--resume", "old", "--steps", "12"])
    whole, old = state("whole/last.pt"), state("old/last.pt")
    for name in ("G", "D", "G_ema"):
        assert all(torch.equal(value, old[name][key]) for key, value in whole[name].items())
    assert not set(RETIRED) & set(json.loads(Path("old/args.json").read_text()))


@pytest.mark.parametrize(
    "flags, named",
    [
        ({"jitter": 1e-3}, "jitter"),
        ({"head_start": 1000}, "head_start"),
        ({"adaptive": True, "adaptive_after": 2}, "adaptive, adaptive_after"),
    ],
)
def test_a_run_that_used_a_flag_that_went_is_refused_in_one_line(here, flags, named):
    smoke("old", "--steps", 1)
    make_older("old", **flags)
    before = Path("old/last.pt").read_bytes()
    with pytest.raises(UserError, match=f"args.json has flags that this script lacks: {named}$"):
        train.main(["--resume", "old", "--steps", "12"])
    assert Path("old/last.pt").read_bytes() == before


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--h-g", "10", "--heads-g", "3"], "--h-g 10 is no multiple of --heads-g"),
        (["--amp", "bf16"], "need float32"),
        (["--dataset", "no-such"], "no-such"),
        (["--num-particles", "151"], "151"),
        (["--n-mean", "0"], "--n-mean 0.0: must be above 0"),
        (["--ema", "1"], "below 1"),
        (["--veto", "0.9"], "--veto 0.9: must be at least 1"),
    ],
)
def test_bad_flags(here, flags, message):
    with pytest.raises(UserError, match=message):
        smoke("X", *flags)


# --- generated jets


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("mdma") / "run"
    smoke(out)
    return out


def test_generated_jets_follow_the_training_n_and_the_seed(trained):
    G, args, stats, _ = mdma_eval.load(trained / "last.pt", torch.device("cpu"))
    jets = load_jets("synthetic", "t", 8, "data", "train")
    make = lambda seed, chunk=1000: features.generate(
        G, 20_000, stats, 8, torch.Generator().manual_seed(seed), chunk
    )
    x = make(0)
    assert torch.equal(x, make(0)) and not torch.equal(x, make(1))
    torch.testing.assert_close(x, make(0, 77), rtol=0, atol=1e-6)
    n = present(x).sum(1)
    assert wasserstein1(n.double(), jets.n.double()) <= 0.15
    assert set(n.tolist()) <= set(jets.n.tolist())
    real, pt = jets.particles[jets.mask], x[present(x)][:, 2]
    assert pt.min() >= real[:, 2].min() > 0 and pt.max() <= real[:, 2].max()


def test_jets_of_like_n_follow_the_seed_too(trained):
    """Of their noise alone."""
    G, _, stats, _ = mdma_eval.load(trained / "last.pt", torch.device("cpu"))
    stats = stats | {"counts": torch.tensor([0, 0, 0, 0, 0, 1, 0, 0, 0])}
    first, second = (
        features.generate(G, 10, stats, 8, torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert set(present(first).sum(1).tolist()) == {5} and not torch.equal(first, second)


@pytest.mark.parametrize("pt", ["linear", "log", "softplus"])
def test_standardising_and_back(pt):
    jets = load_jets("synthetic", "t", 8, "data", "train")
    stats = features.statistics(jets, pt)
    z = features.standardise(jets, stats)
    assert not z[~jets.mask].any() and not jets.mask.all()
    assert z[jets.mask].mean(0).abs().max() < 1e-5 and (z[jets.mask].std(0) - 1).abs().max() < 1e-5
    torch.testing.assert_close(
        features.to_jets(z, jets.mask, stats), jets.particles, rtol=0, atol=1e-6
    )
    assert torch.equal(stats["counts"], torch.bincount(jets.n, minlength=9))


@pytest.mark.parametrize("pt", ["linear", "log", "softplus"])
def test_generated_pt_stays_in_the_training_range(pt):
    """Both ends, however far the generator goes; η and φ are left alone."""
    jets = load_jets("synthetic", "t", 8, "data", "train")
    stats = features.statistics(jets, pt)
    real = jets.particles[jets.mask]
    for z, end in ((-50.0, real[:, 2].min()), (50.0, real[:, 2].max())):
        made = features.to_jets(torch.full_like(jets.particles, z), jets.mask, stats)
        assert (made[jets.mask][:, 2] == end).all() and not made[~jets.mask].any()
        expected = z * real[:, :2].std(0) + real[:, :2].mean(0)
        torch.testing.assert_close(made[jets.mask][:, :2], expected.expand(len(real), 2))


def test_what_the_networks_see_of_pt_by_hand():
    """ln pt; x of pt = s · ln(1 + eˣ), where s is the median."""
    jets = load_jets("synthetic", "t", 8, "data", "train")
    pt = jets.particles[jets.mask][:, 2].double()
    for kind, seen in (
        ("linear", pt),
        ("log", pt.log()),
        ("softplus", ((pt / pt.quantile(0.5)).exp() - 1).log()),
    ):
        stats = features.statistics(jets, kind)
        torch.testing.assert_close(stats["mean"][2].double(), seen.mean(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(stats["std"][2].double(), seen.std(), rtol=1e-3, atol=1e-6)
        assert stats["pt_min"] == pt.min() and stats["pt_max"] == pt.max()


def test_a_slim_checkpoint_generates_the_same_jets(here):
    smoke("X", "--ema", 0.9)
    mdma_eval.main(["--ckpt", "X/last.pt", "--slim", "small.pt"])
    assert Path("small.pt").stat().st_size < Path("X/last.pt").stat().st_size / 2
    jets = []
    for path in ("X/last.pt", "small.pt"):
        G, trained, stats, _ = mdma_eval.load(path, torch.device("cpu"))
        jets.append(features.generate(G, 50, stats, 8, torch.Generator().manual_seed(0)))
    assert torch.equal(*jets)
    with pytest.raises(UserError, match="exists"):
        mdma_eval.main(["--ckpt", "X/last.pt", "--slim", "small.pt"])


def test_a_checkpoint_from_before_pt_is_refused_in_one_line(here):
    smoke("X")
    checkpoint = torch.load("X/last.pt", weights_only=True)
    del checkpoint["state"]["stats"]["pt"]
    torch.save(checkpoint, "old.pt")
    with pytest.raises(UserError, match="old.pt is of a version without --pt"):
        mdma_eval.main(["--ckpt", "old.pt", "--samples", "4"])


def test_exported_jets_are_read_by_jetnet(trained, here):
    jetnet = pytest.importorskip("jetnet.datasets", exc_type=ImportError)
    mdma_eval.main(["--ckpt", str(trained / "last.pt"), "--n", "40", "--export", "out"])
    from unittest import mock

    with mock.patch(
        "jetnet.datasets.jetnet.checkDownloadZenodoDataset", lambda *a, **k: "out/samples_t.hdf5"
    ):
        particles, features = jetnet.JetNet.getData("t", "out", num_particles=8)
    with np.load("out/samples.npz") as ours:
        order = np.random.default_rng(42).permutation(40)  # jetnet's own, of all it reads
        np.testing.assert_array_equal(particles[..., :3], ours["particles"][order])
        np.testing.assert_array_equal(particles[..., 3] > 0, ours["mask"][order])
    assert len(features) == 40
    with pytest.raises(UserError, match="not empty"):
        mdma_eval.main(["--ckpt", str(trained / "last.pt"), "--n", "4", "--export", "out"])


@pytest.mark.parametrize("pt", ["linear", "log"])
def test_exported_jets_are_hardest_first_and_else_the_generated_ones(here, pt, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    smoke("X", "--pt", pt)
    mdma_eval.main(["--ckpt", "X/last.pt", "--n", "200", "--export", "~/out"])
    assert (
        f"200 jets in {here}/out/samples.npz and {here}/out/samples_t.hdf5"
        in capsys.readouterr().out
    )
    G, _, stats, _ = mdma_eval.load("X/last.pt", torch.device("cpu"))
    made = features.generate(G, 200, stats, 8, torch.Generator().manual_seed(0)).numpy()
    with np.load("out/samples.npz") as f, h5py.File("out/samples_t.hdf5") as g:
        jets, mask, theirs = f["particles"], f["mask"], g["particle_features"][()]
        of_jets = g["jet_features"][()]
    assert np.array_equal(theirs, np.concatenate([jets, mask[..., None]], -1))
    assert (np.diff(jets[..., 2], axis=1) <= 0).all() and (np.diff(made[..., 2], axis=1) > 0).any()
    assert np.array_equal(mask, jets[..., 2] > 0) and not jets[~mask].any() and not mask.all()
    for jet, before in zip(jets, made):
        assert sorted(map(tuple, jet)) == sorted(map(tuple, before))
    mass = jet_mass(torch.from_numpy(jets)).numpy()
    columns = np.stack([np.ones(200), np.zeros(200), mass, mask.sum(1)], axis=1)
    np.testing.assert_allclose(of_jets, columns, rtol=1e-6)


def test_exported_jets_of_an_own_file_have_no_type(here):
    """Not even --jet-type's default, tops."""
    write_toys("own.npz")
    smoke("X", "--dataset", "own.npz", "--steps", 1)
    mdma_eval.main(["--ckpt", "X", "--n", "4", "--export", "out"])
    assert {p.name for p in Path("out").iterdir()} == {"samples.npz", "samples_own.hdf5"}


@pytest.mark.parametrize("there", [False, True])
def test_half_an_export_is_removed(trained, here, monkeypatch, there):
    def full_disk(*a, **k):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jets_module, "jet_mass", full_disk)  # after samples.npz is written
    if there:
        Path("out").mkdir()
    with pytest.raises(OSError, match="No space"):
        mdma_eval.main(["--ckpt", str(trained / "last.pt"), "--n", "20", "--export", "out"])
    assert list(here.rglob("*")) == ([here / "out"] if there else [])


def test_a_run_directory_is_a_checkpoint_and_what_is_written_is_named(
    trained, here, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(here))
    Path("X").mkdir()
    for name in ("best.pt", "last.pt", "log.jsonl"):
        shutil.copy(trained / name, "X")
    metrics = mdma_eval.main(["--ckpt", "X", "--n", "300"])
    step = load_checkpoint(Path("X/best.pt"), "mdma")["step"]
    written = f"eval_{step}.json, table1.md, fig2.png, jets.png, curves.png"
    out = capsys.readouterr().out
    assert out.startswith(f"X/best.pt: MDMA, step {step}") and out.endswith(f"in X: {written}\n")
    assert all(Path("X", file).exists() for file in written.split(", "))
    assert json.loads(Path("X", f"eval_{step}.json").read_text())["metrics"] == metrics
    mdma_eval.main(["--ckpt", "X", "--samples", "4", "--grid-out", "~/some/jets.png"])
    assert capsys.readouterr().out == f"4 generated jets in {here}/some/jets.png\n"
    assert Path("some/jets.png").exists()
    Path("X/best.pt").unlink()
    mdma_eval.main(["--ckpt", "X", "--slim", "~/small.pt"])  # of last.pt now
    assert capsys.readouterr().err.startswith(f"eval: wrote {here}/small.pt, 0.0")
    assert Path("small.pt").exists()
    with pytest.raises(UserError, match="no best.pt or last.pt in this directory"):
        mdma_eval.main(["--ckpt", "some"])


def test_a_shipped_checkpoint_writes_into_runs(here, repo, monkeypatch):
    """Into runs/mdma/t30, and it is compared with the jets under data, as its own machine's directory isn't here."""
    results = repo / "mdma/results"
    before = sorted(results.iterdir())
    Path("data/pythia").mkdir(parents=True)
    with (
        np.load(repo / "tests/data/pythia_top30_test_2000.npz") as f,
        h5py.File("data/pythia/t150.hdf5", "w") as g,
    ):
        x = f["particles"][:100].astype(np.float32)
        g["particle_features"] = np.concatenate([x, x[..., 2:] > 0], axis=-1)
    mdma_eval.main(["--ckpt", str(results / "t30.pt"), "--n", "30"])
    assert sorted(results.iterdir()) == before
    assert {p.name for p in Path("runs/mdma/t30").iterdir()} == {
        "eval_40000.json",
        "table1.md",
        "fig2.png",
        "jets.png",
    }
    monkeypatch.setattr(bench_mdma, "SCALING", (25, 50))
    bench_mdma.main(["--ckpt", str(results / "t30.pt"), "--timing-jets", "20"])
    assert Path("runs/mdma/t30/timing.json").exists() and sorted(results.iterdir()) == before


def test_evaluation_finds_the_jets_of_the_training(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    jets = load_jets("synthetic", "t", 8, "data", "train")
    np.savez("own.npz", particles=jets.particles.numpy(), mask=jets.mask.numpy())
    Path("far/pythia").mkdir(parents=True)
    with h5py.File("far/pythia/w150.hdf5", "w") as f:
        f["particle_features"] = torch.cat([jets.particles, jets.mask[..., None]], 2).numpy()
    smoke("X", "--dataset", "~/own.npz", "--steps", 1)  # can be read from anywhere
    smoke("Y", "--dataset", "pythia", "--jet-type", "w", "--data-dir", "far", "--steps", 1)

    class Found(Exception):
        pass

    def load_train(*arguments):
        raise Found(len(load_jets(*arguments)))

    monkeypatch.setattr(mdma_eval, "load_jets", load_train)
    with pytest.raises(Found, match="489"):
        mdma_eval.main(["--ckpt", "Y"])
    with pytest.raises(UserError, match="no PYTHIA jets in other/pythia"):
        mdma_eval.main(["--ckpt", "Y", "--data-dir", "other"])
    Path("far").rename("other")
    with pytest.raises(UserError, match="no PYTHIA jets in data/pythia"):
        mdma_eval.main(["--ckpt", "Y"])
    with pytest.raises(Found, match="489"):
        mdma_eval.main(["--ckpt", "Y", "--data-dir", "~/other"])
    monkeypatch.chdir("other")
    with pytest.raises(Found, match="489"):
        mdma_eval.main(["--ckpt", "~/X"])


def test_what_is_compared_with_what(trained, here, monkeypatch):
    """Twenty generated jets for each real one of the split, by --seed, and for IN the training jets."""
    for name in ("draw_features", "draw_jets", "curves"):
        monkeypatch.setattr(mdma_eval, name, lambda *a, **k: None)
    shutil.copy(trained / "last.pt", "X.pt")
    calls = []

    def metrics(real, fake, **options):
        calls.append((real, fake, options))
        return {
            "w1m_bootstrap5_150": 1.0,
            "w1m_bootstrap5_150_err": 0.1,
            "w1m_disjoint10_150": 1.0,
            "w1m_disjoint10_150_err": 0.1,
        }

    monkeypatch.setattr(mdma_eval, "jet_metrics", metrics)
    mdma_eval.main(["--ckpt", "X.pt", "--seed", "3", "--split", "valid"])
    assert len(list(Path().glob("eval_*_valid.json"))) == len(list(Path().glob("eval_*"))) == 1
    G, _, stats, _ = mdma_eval.load("X.pt", torch.device("cpu"))
    fake = features.generate(G, 20 * 150, stats, 8, torch.Generator().manual_seed(3))
    real, inside = (
        load_jets("synthetic", "t", 8, "data", split).particles for split in ("valid", "train")
    )
    for call, x in zip(calls, (fake, inside), strict=True):
        assert torch.equal(call[0], real) and torch.equal(call[1], x)
        assert call[2] == {"seed": 3, "fpnd_type": None}
    for flags, message in (
        (["--fpnd"], "statistics for 30 particles"),
        (["--amp", "bf16"], "need float32"),
        (["--n", "9"], "150 real and 9 generated jets"),
    ):
        with pytest.raises(UserError, match=message):
            mdma_eval.main(["--ckpt", "X.pt", *flags])


@pytest.mark.parametrize("slots", [30, 31])
def test_no_exported_file_has_a_name_that_jetnet_takes_for_its_own(here, monkeypatch, slots):
    """jetnet deletes a file of such a name whose checksum isn't Zenodo's, and downloads it anew."""
    utils = pytest.importorskip("jetnet.datasets.utils", exc_type=ImportError)
    from jetnet.datasets import JetNet

    smoke("X", "--num-particles", slots, "--steps", 1, "--jet-type", "z")
    mdma_eval.main(["--ckpt", "X", "--n", "4", "--export", "out"])
    made = {p: p.read_bytes() for p in Path("out").iterdir()}
    assert {p.name for p in made} == {"samples.npz", "samples_z.hdf5"}

    def download(url, path):
        assert path not in made
        raise ConnectionError

    monkeypatch.setattr(utils, "_getZenodoFileURL", lambda record, name: ("url", "another sum"))
    monkeypatch.setattr(utils, "download_progress_bar", download)
    with pytest.raises(ConnectionError):
        JetNet.getData("z", "out", num_particles=slots, download=True)
    assert {p: p.read_bytes() for p in Path("out").iterdir()} == made


def test_jets_of_one_particle_train_and_are_evaluated(here, capsys):
    smoke("X", "--num-particles", 1)
    assert "pt_rel has one value in all training jets" in capsys.readouterr().err
    metrics = mdma_eval.main(["--ckpt", "X", "--n", "300"])
    assert all(math.isfinite(v) for v in metrics.values())
    assert (
        metrics["w1m_exact_150_300"]
        == metrics["w1sumpt_exact_150_300"]
        == 0
        < metrics["w1p_eta_bootstrap5_150"]
    )
    with Image.open("X/fig2.png") as image:
        assert np.asarray(image).std() > 0


def test_a_feature_of_one_value_is_said_and_all_three_are_refused(capsys):
    jets = load_jets("synthetic", "t", 8, "data", "train")
    jets.particles[..., 0] = 0.1 * jets.mask
    stats = features.statistics(jets)
    assert (
        capsys.readouterr().err
        == "eta_rel has one value in all training jets: it can't be learnt\n"
    )
    assert stats["std"][0] == 1 and features.standardise(jets, stats)[..., 0].abs().max() < 1e-6
    assert (stats["std"][1:] < 1).all()
    jets.particles[...] = 0.1 * jets.mask[..., None]
    with pytest.raises(UserError, match="all particles of the training jets are the same"):
        features.statistics(jets)


def test_ratio_histogram(tmp_path):
    figure, (axis, ratio_axis) = figures.plt.subplots(2, 1)
    bins = np.array([0.0, 1.0, 3.0, 4.0])
    reference = np.array([0.5] * 4 + [2.0] * 4)  # densities 0.5, 0.25 (twice as wide), 0
    figures.ratio_histogram(
        axis, ratio_axis, {"ours": np.array([0.5, 2.0, 2.0, 3.5])}, ("theirs", reference), bins
    )
    stairs = {patch.get_label(): patch.get_data().values.tolist() for patch in axis.patches}
    assert stairs == {"theirs": [0.5, 0.25, 0.0], "ours": [0.25, 0.25, 0.25]}
    dots = ratio_axis.lines[0].get_xydata()
    assert (
        dots[:, 0].tolist() == [0.5, 2.0, 3.5]
        and dots[:2, 1].tolist() == [0.5, 1.0]
        and np.isnan(dots[2, 1])
    )
    figures.save_figure(figure, tmp_path / "ratio.png")
    with Image.open(tmp_path / "ratio.png") as image:
        assert np.asarray(image).std() > 0


def test_what_fig_2_shows_of_a_jet():
    jet = torch.tensor([[0.1, 0.2, 0.25], [-0.3, 0.2, 0.5], [0, 0, 0]])
    found = figures.observables(jet[None])
    expected = {figures.ETA: [0.1, -0.3], figures.PHI: [0.2, 0.2], figures.PT: [0.25, 0.5]}
    for name, values in (expected | {figures.COUNT: [2], figures.SUM_PT: [0.75]}).items():
        assert found[name].tolist() == pytest.approx(values), name


def test_a_dot_stands_at_its_particles_eta_and_phi(tmp_path, figures_of):
    drawn = figures_of(figures)
    figures.draw_jets({"a": torch.tensor([[[0.1, 0.2, 0.5], [0, 0, 0]]])}, tmp_path / "j.png")
    dots = drawn[0].axes[0].collections[0]
    assert dots.get_offsets().tolist() == [[pytest.approx(0.1), pytest.approx(0.2)]]
    assert dots.get_sizes().tolist() == [figures.AREA * 0.5]


def test_training_draws_generated_jets_over_validation_jets(here, monkeypatch):
    shown = []
    monkeypatch.setattr(train, "draw_features", lambda jets, *a: shown.extend(jets.values()))
    smoke("X", "--steps", 1)
    reference, made = shown
    assert torch.equal(reference, load_jets("synthetic", "t", 8, "data", "valid").particles)
    assert not torch.equal(made[:30], reference[:30])


# --- Table 1, timing


def test_table_1_shows_ours_in_the_papers_units_beside_the_papers():
    metrics = {
        f"{name}{err}": value * scale
        for name, value in (
            ("w1m_bootstrap5_26k", 5.7e-4),
            ("w1p_paper_bootstrap5_26k", 1e-4),
            ("w1efp_paper_bootstrap5_26k", 2.12e-5),
            ("w1m_disjoint4_26k", 6e-4),
            ("kpd_10x5k_of_26k", -3e-6),
            ("fpd_10k_26k_of_26k", 5.3e-4),
            ("fpd_line_10k_26k_of_26k", 9.0),
            ("fpd_20k_50k_of_26k", 9.0),
        )
        for err, scale in (("", 1), ("_err", 0.1))
    }
    metrics["kpd_10x5k_of_26k_err"] = 2e-5
    text = mdma_eval.table1("t, pythia-30", "t", metrics, metrics)
    assert "JetNet" not in mdma_eval.table1("mine.h5", None, metrics, metrics)
    assert (
        "| t, JetNet-150 | EPiC, paper | 0.69 ± 0.08 | 0.65 ± 0.03 | 2.67 ± 0.39 | 1.7 ± 1.0 | 22 ± 1 |"
        in text
    )
    assert (
        "| t, pythia-30 | MDMA, ours, bootstrap5_26k | 0.570 ± 0.057 | 0.100 ± 0.010 | 2.12 ± 0.21 | "
        "-0.03 ± 0.20 | 5.30 ± 0.53 |"
    ) in text
    assert "| t, pythia-30 | IN, ours, disjoint4_26k | 0.600 ± 0.060 | – | – |" in text


def test_what_a_single_batch_gives_has_no_error_in_the_table():
    metrics = {
        "w1m_bootstrap5_150": 2e-3,
        "w1m_bootstrap5_150_err": 1e-4,
        "w1m_disjoint1_150": 3e-3,
    }
    text = mdma_eval.table1("a.npz", None, metrics)
    assert "| MDMA, ours, bootstrap5_150 | 2.00 ± 0.10 | – |" in text
    assert "| MDMA, ours, disjoint1_150 | 3.00 | – |" in text


def test_a_line_has_the_training_jets_score_behind():
    """Which has fewer disjoint batches."""
    ours = {"w1m_disjoint20_150": 1e-3, "w1m_disjoint20_150_err": 1e-4}
    (line,) = metric_lines(ours, {"w1m_disjoint4_150": 5e-4})
    assert line.split() == "w1m_disjoint20_150 1.000e-03 ± 1.00e-04 (IN 5.000e-04)".split()


def test_timing_counts_and_draws(trained, monkeypatch):
    monkeypatch.setattr(bench_mdma, "SCALING", (25, 50, 400))
    result = bench_mdma.main(["--ckpt", str(trained / "last.pt"), "--timing-jets", "300"])
    assert [row["batch_size"] for row in result["generation"]] == [100, 1000, 10_000, 75_000]
    assert all(row["jets"] == 300 and row["us_cpu"] > 0 for row in result["generation"])
    assert [row["n"] for row in result["scaling"]] == [25, 50, 400]
    assert result["exponent_self_attention"] > result["exponent_mdma"]
    with Image.open(trained / "scaling.png") as image:
        assert np.asarray(image).std() > 0


def test_graphed_step_just_runs_without_cuda():
    calls = []
    step = GraphedStep(lambda *a: calls.append(a) or (a[0] + 1,), torch.device("cpu"))
    assert step(torch.ones(2), True)[0].tolist() == [2, 2] and step(torch.zeros(3), False)[
        0
    ].tolist() == [1, 1, 1]
    assert [flag for _, flag in calls] == [True, False]


class FakeGraph:
    """Stands for torch.cuda.CUDAGraph: what is called while it records is called again at replay."""

    def __init__(self):
        self.calls = []

    def replay(self):
        for call in self.calls:
            call()


def test_graphed_step_runs_then_records_then_replays(monkeypatch):
    """With CUDA faked: a recorded step computes on its own copies of the arguments, and only at replay."""
    import contextlib

    recording, done = [], []

    @contextlib.contextmanager
    def graph(g, pool):
        assert pool == "one pool"
        recording.append(g)
        yield
        recording.pop()

    fake_cuda = argparse.Namespace(
        Stream=lambda: argparse.Namespace(wait_stream=lambda other: None),
        CUDAGraph=FakeGraph,
        graph=graph,
        current_stream=lambda: argparse.Namespace(wait_stream=lambda other: None),
        graph_pool_handle=lambda: "one pool",
        stream=lambda s: contextlib.nullcontext(),
    )
    monkeypatch.setattr("common.device.torch.cuda", fake_cuda)

    def double(x, flag):
        out = torch.zeros_like(x)

        def kernel():
            done.append(flag)
            out.copy_(2 * x)

        recording[-1].calls.append(kernel) if recording else kernel()
        return (out,)

    step = GraphedStep(double, torch.device("cuda"))
    results = [step(torch.full((2,), float(i)), True)[0] for i in range(4)]
    assert [r.tolist() for r in results] == [[0, 0], [2, 2], [4, 4], [6, 6]]
    assert step(torch.ones(3), True)[0].tolist() == [2, 2, 2] and step(torch.ones(2), False)[
        0
    ].tolist() == [2, 2]
    assert len(step.recorded) == 3 and done == [True] * 5 + [False]


def test_twin_table_compares_what_is_simulated(here, monkeypatch):
    import h5py

    Path("data/pythia").mkdir(parents=True)
    jets = load_jets("synthetic", "w", 40, "data", "train")
    with h5py.File("data/pythia/w150.hdf5", "w") as f:
        f["particle_features"] = torch.cat([jets.particles, jets.mask[..., None]], 2).numpy()
    (row,) = twin.main([])
    n = jets.n.double()
    assert row["twin"]["n mean"] == pytest.approx(n.mean().item())
    assert row["twin"]["n sd"] == pytest.approx(n.std().item())
    assert row["twin"]["FPND"] is None and row["JetNet"] == {"n mean": 38.623, "n sd": 11.414}
    hardest = jets.particles[:, :30]
    assert row["twin"]["pT mean"] == pytest.approx(
        hardest[..., 2].sum().item() / (hardest[..., 2] > 0).sum().item()
    )
    assert row["twin"]["mass"] == pytest.approx(
        np.quantile(jet_mass(hardest), [0.1, 0.5, 0.9]), rel=1e-6
    )
    assert "(38.62)" in Path("runs/mdma/twin.md").read_text()
    with pytest.raises(UserError, match="no simulated jets"):
        twin.main(["--data-dir", "elsewhere"])
    monkeypatch.setenv("HOME", str(here))
    assert twin.main(["--data-dir", "~/data"]) == [row]


def test_the_twins_deviations_are_each_features_own(monkeypatch):
    """Three splits of one jet: deviations of .1, .3 and .2 to both sides, of six particles."""
    particles = torch.tensor([[[0.1, 0.2, 0.6], [0.3, 0.8, 0.2], [0, 0, 0]]])
    jets = SimpleNamespace(n=torch.tensor([2]), particles=particles)
    monkeypatch.setattr(twin, "load_jets", lambda *a: jets)
    found = twin.twin_row("w", None)["twin"]
    for name, off in (("η sd", 0.1), ("φ sd", 0.3), ("pT sd", 0.2)):
        assert found[name] == pytest.approx(off * math.sqrt(6 / 5), rel=1e-5), name


# --- The shipped checkpoint


@pytest.mark.parametrize("checkpoint, slots", [("t30.pt", 30), ("t150.pt", 150)])
def test_a_shipped_checkpoint_makes_jets_like_held_out_ones(checkpoint, slots):
    """W1M of generated against simulated test jets (PYTHIA, the 30 hardest particles): within 3 times that of two
    real samples of the same size (1.5 and 1.7 when this was written), far from an untrained G's.
    """
    root = Path(__file__).resolve().parent
    with np.load(root / "data" / "pythia_top30_test_2000.npz") as f:
        real, other = torch.from_numpy(f["particles"].astype(np.float32)).split(1000)
    G, trained, stats, _ = mdma_eval.load(
        root.parent / "mdma/results" / checkpoint, torch.device("cpu")
    )
    torch.manual_seed(0)

    def hardest(net):
        jets = features.generate(net, 10_000, stats, slots, step_rng(0, 0))
        return jets.gather(1, jets[..., 2].topk(30).indices[..., None].expand(-1, -1, 3))

    made = [hardest(net) for net in (G, train.build(trained)[0].eval())]
    w1m = [
        w1m_disjoint(jet_mass(real), jet_mass(jets), len(jets) // 1000)[0]
        for jets in (other, *made)
    ]
    assert w1m[1] < 3 * w1m[0] and w1m[2] > 30 * w1m[0]
