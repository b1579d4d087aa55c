"""Other generators' jets: two files are scored as a checkpoint is, and what isn't jets is refused."""

import json
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.metrics.jets import jet_metrics
from mdma import eval as mdma_eval
from mdma import figures, jets, score
from mdma.jets import read_for_scores


@pytest.fixture(scope="module")
def half():
    """Two halves of real PYTHIA jets, 1,000 each: (particles, mask), (particles, mask)."""
    with np.load(Path(__file__).parent / "data/pythia_top30_test_2000.npz") as f:
        x, mask = f["particles"].astype(np.float32), f["mask"]
    return (x[:1000], mask[:1000]), (x[1000:], mask[1000:])


@pytest.fixture
def files(half, here):
    """a.npz and b.hdf5 (JetNet's layout) in an empty current directory."""
    (x, mask), (y, mask_y) = half
    np.savez("a.npz", particles=x, mask=mask)
    with h5py.File("b.hdf5", "w") as f:
        f["particle_features"] = np.concatenate([y, mask_y[..., None]], -1)
    return here


def scored(generated, *flags, out):
    argv = ["--generated", generated, "--reference", "b.hdf5", "--out", out, *flags]
    return mdma_eval.main(argv)


def save(path, x):
    np.savez(path, particles=x, mask=(x != 0).any(-1))


def without_pictures(monkeypatch):
    for name in ("draw_features", "draw_jets"):
        monkeypatch.setattr(score, name, lambda *a, **k: None)


# --- two files


def test_two_files_get_the_scores_of_a_checkpoint(files, half, capsys):
    (x, _), (y, _) = (tuple(map(torch.from_numpy, part)) for part in half)
    metrics = scored("a.npz", "--seed", "3", "--jet-type", "t", out="new/out")
    assert metrics == pytest.approx(jet_metrics(y, x, seed=3))
    result = json.loads(Path("new/out/a_eval.json").read_text())
    assert result["metrics"] == metrics and result["units"] == "relative" and result["env"]
    assert (result["generated"], result["reference"]) == ("a.npz", "b.hdf5")
    assert (result["generated_jets"], result["reference_jets"], result["seed"]) == (1000, 1000, 3)
    table = Path("new/out/a_table1.md").read_text()
    assert "| t, JetNet-150 | MDMA, paper |" in table and "| b.hdf5 | a.npz, ours, boot" in table
    assert "IN, ours" not in table
    for name in ("fig2", "jets"):
        with Image.open(f"new/out/a_{name}.png") as image:
            assert np.asarray(image).std() > 0
    out = capsys.readouterr().out
    assert table in out and "w1m_exact_1k_1k" in out and "IN " not in out.rpartition("|")[2]
    assert "in new/out: a_eval.json, a_table1.md, a_fig2.png, a_jets.png" in out


def test_real_jets_look_in_sample_and_jets_with_exchanged_particles_rank_last(
    files, half, monkeypatch
):
    """Each slot from another jet: single particles stay right, jets don't."""
    without_pictures(monkeypatch)
    (x, _), (y, _) = half
    save("c.npz", x * [1, 1, 1.02])
    rng = np.random.default_rng(0)
    exchanged = np.stack([x[rng.permutation(1000), k] for k in range(30)], axis=1)
    save("d.npz", exchanged)
    real, scaled, wrong = (scored(f"{name}.npz", out=name) for name in "acd")
    for key in ("w1m_exact_1k_1k", "w1efp_mean_bootstrap5_1k", "fpd_line_400_1k_of_1k"):
        assert max(real[key], scaled[key]) < 0.6 * wrong[key], key
    assert real["w1m_exact_1k_1k"] < 3e-3 < 1e-2 < wrong["w1m_exact_1k_1k"]
    assert real["w1sumpt_exact_1k_1k"] < 0.5 * scaled["w1sumpt_exact_1k_1k"]
    assert wrong["w1p_pt_bootstrap5_1k"] < 2 * real["w1p_pt_bootstrap5_1k"]


@pytest.mark.parametrize("name", ["eval.json", "table1.md", "fig2.png", "jets.png"])
def test_nothing_is_overwritten(files, monkeypatch, name):
    monkeypatch.setattr(score, "read_for_scores", lambda *a: pytest.fail("refused before it reads"))
    Path(f"a_{name}").write_text("mine")
    with pytest.raises(UserError, match=f"a_{name} exists already: .*--out"):
        mdma_eval.main(["--generated", "a.npz", "--reference", "b.hdf5"])
    assert Path(f"a_{name}").read_text() == "mine"


def test_results_stand_beside_the_generated_file(files, monkeypatch):
    without_pictures(monkeypatch)
    monkeypatch.setattr(score, "jet_metrics", lambda *a, **k: {"x": 1.0})
    monkeypatch.setattr(score, "table1", lambda *a, **k: "")
    Path("sub").mkdir()
    Path("a.npz").rename("sub/a.npz")
    mdma_eval.main(["--generated", "sub/a.npz", "--reference", "b.hdf5"])
    assert {p.name for p in Path("sub").iterdir()} == {"a.npz", "a_eval.json", "a_table1.md"}


def test_files_of_other_widths(files, half, monkeypatch):
    """Padding counts for nothing: the same jets in 40 columns have the same scores."""
    without_pictures(monkeypatch)
    save("wide.npz", np.pad(half[0][0], ((0, 0), (3, 7), (0, 0))))
    assert scored("wide.npz", out="wide") == pytest.approx(scored("a.npz", out="a"))


@pytest.mark.parametrize("cut", ["a.npz", "b.hdf5"])
def test_a_file_that_is_cut_to_fewer_particles_is_named(files, half, monkeypatch, capsys, cut):
    """Of all jets of the other file most have more; of the uncut ones a few have the most."""
    without_pictures(monkeypatch)
    monkeypatch.setattr(score, "jet_metrics", lambda *a, **k: {"x": 1.0})
    monkeypatch.setattr(score, "table1", lambda *a, **k: "")
    scored("a.npz", out="whole")
    assert "cut both files alike" not in capsys.readouterr().err
    whole = {"a.npz": "b.hdf5", "b.hdf5": "a.npz"}[cut]
    save("c.npz", half[cut == "b.hdf5"][0][:, :20])
    given = ["c.npz" if name == cut else name for name in ("a.npz", "b.hdf5")]
    mdma_eval.main(["--generated", given[0], "--reference", given[1], "--out", "cut"])
    line = rf"{whole}: \d+% of the jets have more than 20 particles, of c.npz none"
    assert re.search(line, capsys.readouterr().err)


def test_the_lines_that_feed_an_export_to_jetnet(here, half, monkeypatch, capsys):
    """As they stand in the docstring. With jetnet's draws fixed, its W1M is the one of eval."""
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # compiling takes a minute
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jetnet = pytest.importorskip("jetnet.evaluation", exc_type=ImportError)
        jets.export(torch.from_numpy(half[1][0][:400]), "t", Path("DIR"))
        np.savez("test.npz", particles=half[0][0][:300], mask=half[0][1][:300])
        monkeypatch.setattr(jetnet.gen_metrics, "rng", np.random.default_rng(0))
        capsys.readouterr()
        lines = re.findall(r"^ {8}(\w.*)", jets.export.__doc__, re.M)
        assert len(lines) == 3
        exec("\n".join(lines), {})
    printed = np.array(re.findall(r"\d\.[\de.-]+", capsys.readouterr().out), float)
    without_pictures(monkeypatch)
    metrics = mdma_eval.main(["--generated", "DIR/samples.npz", "--reference", "test.npz"])
    ours = [metrics["w1m_bootstrap5_300"], metrics["w1m_bootstrap5_300_err"]]
    assert printed[:2] == pytest.approx(ours, rel=1e-5) and len(printed) == 2 + 2 * 3
    again = mdma_eval.main(["--generated", "DIR/samples_t.hdf5", "--reference", "test.npz"])
    assert again == metrics


def test_fig_2_of_two_files_is_over_the_reference(files, half, monkeypatch):
    without_pictures(monkeypatch)
    shown = []
    monkeypatch.setattr(score, "draw_features", lambda jets, *a: shown.extend(jets.values()))
    monkeypatch.setattr(score, "jet_metrics", lambda *a, **k: {"x": 1.0})
    monkeypatch.setattr(score, "table1", lambda *a, **k: "")
    scored("a.npz", out="out")
    (x, _), (y, _) = half
    for jets_shown, expected in zip(shown, (y, x), strict=True):
        assert np.array_equal(jets_shown.numpy(), expected)


# --- what pT is


def test_gev_is_refused_and_divided_by_the_sum_if_asked(files, half, monkeypatch, capsys):
    without_pictures(monkeypatch)
    (x, _), (y, _) = half
    save("gev.npz", x * [1, 1, 950])
    with pytest.raises(UserError, match=r"gev.npz: the median sum .* is 8\d\d\.\d?, .*--units gev"):
        scored("gev.npz", out="out")
    assert not Path("out").exists()
    metrics = scored("gev.npz", "--units", "gev", out="out")
    err = capsys.readouterr().err
    assert re.search(
        r"gev.npz: the pT values of each jet are divided by their sum \(median 8\d\d", err
    )
    assert re.search(
        r"b.hdf5: the pT values of each jet are divided by their sum \(median 0\.9", err
    )
    relative = [part / part[..., 2].sum(1)[:, None, None] for part in (x, y)]
    for part, angles in zip(relative, (x, y)):
        part[..., :2] = angles[..., :2]
    expected = jet_metrics(torch.from_numpy(relative[1]), torch.from_numpy(relative[0]))
    for key, value in metrics.items():
        if "sumpt" in key:
            assert value < 1e-6
        elif not key.startswith(("fpd", "kpd")):
            assert value == pytest.approx(expected[key], rel=1e-3, abs=1e-9), key
    assert json.loads(Path("out/gev_eval.json").read_text())["units"] == "gev"


@pytest.mark.parametrize(
    "columns, scale, seen",
    [
        ([2, 0, 1], 1, "its first column is never negative, as if it were pT"),
        ([2, 0, 1], 900, "its first column is never negative, as if it were pT"),
        ([0, 2, 1], 1, "its second column is never negative, as if it were pT"),
    ],
)
@pytest.mark.parametrize("units", ["relative", "gev"])
def test_columns_in_another_order_are_refused(files, half, columns, scale, seen, units):
    save("c.npz", (half[0][0] * [1, 1, scale])[..., columns])
    with pytest.raises(UserError, match=f"c.npz: {seen}.*eta_rel, phi_rel, pt_rel") as e:
        scored("c.npz", "--units", units, out="out")
    assert "\n" not in str(e.value) and not Path("out").exists()


def test_particles_without_pt_are_padding_and_are_counted(half, here, capsys):
    """JetNet has particles of pT 0, and some generators make negative ones."""
    x = half[0][0][:20].copy()
    x[:10, 29, 2] *= -1
    x[0, 28, 2] = 0
    save("c.npz", x)
    found = read_for_scores("c.npz")
    expected = half[0][1][:20].sum(1) - (np.arange(20) < 10) - (np.arange(20) == 0)
    kept = half[0][1][:20, 28:].sum()
    assert kept == 40 and found.n.tolist() == expected.tolist()
    assert not found.particles[~found.mask].any()
    assert "c.npz: 11 of 600 particles have no positive pT and are taken for padding" in (
        capsys.readouterr().err
    )


def test_single_wild_jets_are_scored_and_counted(half, here, capsys):
    """FPD is there to see them; but a file of which most jets are so isn't one of jets."""
    x = half[0][0][:20].copy()
    x[3, :, 2] *= 5
    x[7, 4, 1] = 40
    x[5, [1, 2], 0] = -999
    save("c.npz", x)
    found = read_for_scores("c.npz")
    assert len(found) == 20 and found.particles[3, :, 2].sum() > 3
    assert found.particles[5, [1, 2], 0].tolist() == [-999, -999]
    err = capsys.readouterr().err
    assert "c.npz: 1 of 20 jets have pt_rel that sum to more than 3, the first is number 3\n" in err
    assert "c.npz: 1 of 20 jets have |eta_rel| above 20, the first is number 5\n" in err
    save("d.npz", x * [1, 180 / np.pi, 1])
    with pytest.raises(UserError, match=r"d.npz: .. of 20 jets have \|phi_rel\| above 3π"):
        read_for_scores("d.npz")
    save("e.npz", x * [1000, 1, 1])
    with pytest.raises(UserError, match=r"e.npz: 20 of 20 jets have \|eta_rel\| above 20"):
        read_for_scores("e.npz")


def test_scores_of_jets_with_a_value_for_no_eta_are_numbers(files, half):
    """Of 1 % of the jets of both files, as they come from some tools: W1M and Fig. 2 are finite."""
    (x, _), (y, _) = half
    for name, jets_of in (("a.npz", x), ("c.npz", y)):
        z = jets_of.copy()
        z[::100, 3, 0] = -999
        save(name, z)
    metrics = mdma_eval.main(["--generated", "a.npz", "--reference", "c.npz", "--out", "out"])
    assert np.isfinite(list(metrics.values())).all()
    assert Path("out/a_fig2.png").exists()


def test_sums_that_are_1_but_for_rounding_are_drawn_as_one_value():
    values = np.float32([1, 1 - 6e-8, 1 + 1.2e-7] * 100)
    edges = figures.bin_edges(figures.SUM_PT, values)
    assert edges[0] == pytest.approx(0.8) and edges[-1] == pytest.approx(1.2)


# --- flags


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--generated", "a.npz"], "--generated needs --reference FILE"),
        (["--reference", "b.hdf5"], "--reference: only with --generated FILE"),
        (["--units", "gev", "--out", "o"], "--out, --units: only with --generated"),
        (["--jet-type", "t"], "--jet-type: only with --generated"),
        (
            ["--generated", "a", "--reference", "b", "--ckpt", "x"],
            "--ckpt: only for a checkpoint's",
        ),
        (
            ["--generated", "a", "--reference", "b", "--n", "9", "--data-dir", "d"],
            "--data-dir, --n: only for a checkpoint's",
        ),
        (["--generated", "no.npz", "--reference", "b.hdf5"], "no file no.npz"),
        (["--generated", "a.npz", "--reference", "."], ". is a directory, not a file of jets"),
        (["--generated", "a.npz", "--reference", "b.hdf5", "--fpnd"], "--jet-type is missing"),
        (
            ["--generated", "a.npz", "--reference", "b.hdf5", "--fpnd", "--jet-type", "w"],
            "a.npz has 30 particles per jet and --jet-type is w",
        ),
        (["--generated", "few.npz", "--reference", "b.hdf5"], "9 in few.npz: .* ten of each"),
    ],
)
def test_flags_that_do_not_fit(files, half, flags, message):
    save("few.npz", half[0][0][:9])
    with pytest.raises(UserError, match=message):
        mdma_eval.main(flags)
    assert {p.name for p in files.iterdir()} == {"a.npz", "b.hdf5", "few.npz"}


def test_fpnd_is_of_the_type_that_is_named(files, monkeypatch):
    without_pictures(monkeypatch)
    monkeypatch.setattr(score, "table1", lambda *a, **k: "")
    seen = []
    monkeypatch.setattr(
        score, "jet_metrics", lambda *a, **options: seen.append(options) or {"x": 1.0}
    )
    scored("a.npz", "--fpnd", "--jet-type", "q", out="x")
    scored("a.npz", "--jet-type", "q", out="y")
    assert [options["fpnd_type"] for options in seen] == ["q", None]
