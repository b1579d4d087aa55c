"""mdma/reproduce.py: what each run is trained with and measured against, and its table."""

import json
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.metrics.jets import jet_metrics
from common.runs import load_checkpoint
from mdma import eval as mdma_eval
from mdma import reproduce, train
from mdma.features import generate
from mdma.jets import load_jets
from tests.helpers import check_tables_outlive_runs, write_log

FLAGS = ["--jobs", "1", "--seeds", "1", "--out", "X", "--train-flags=--smoke", "--n", "300"]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(train, "draw_features", lambda *a: None)
    monkeypatch.setattr(train, "curves", lambda *a, **k: None)
    monkeypatch.setitem(reproduce.ROWS, "MDMA, 14,000 jets", ["--train-jets", "40"])
    monkeypatch.setitem(reproduce.ROWS, "MDMA, 35,000 jets", ["--train-jets", "600"])


def test_each_run_is_scored_against_test_jets_and_a_part_of_few_against_its_own(here):
    found = reproduce.main([*FLAGS, "--questions", "data", "peer"])
    assert list(found) == ["MDMA", "EPiC-GAN", "MDMA, 35,000 jets", "MDMA, 14,000 jets"]
    G, trained, stats, _ = mdma_eval.load("X/MDMA_14000_jets-0/last.pt", "cpu")
    assert trained.train_jets == 40 and int(stats["counts"].sum()) == 40
    fake = generate(G, 300, stats, 8, torch.Generator().manual_seed(0))
    train_jets, test = (
        load_jets("synthetic", "t", 8, "data", s).particles for s in ("train", "test")
    )
    pairs = {
        "": (test, fake),
        "in_sample_": (test, train_jets),
        "own_test_": (test[:40], fake),
        "own_train_": (train_jets[:40], fake),
    }
    scores = found["MDMA, 14,000 jets"][0]["metrics"]
    for start, pair in pairs.items():
        expected = jet_metrics(*pair, protocols=["bootstrap5"])
        assert {start + k: pytest.approx(v) for k, v in expected.items()}.items() <= scores.items()
    for row in ("MDMA", "MDMA, 35,000 jets"):  # more training jets than test jets
        starts = {
            key.split("w1m_exact")[0] for key in found[row][0]["metrics"] if "w1m_exact" in key
        }
        assert starts == {"", "in_sample_", "own_train_"}

    table = Path("X/questions.md").read_text().splitlines()
    assert len(table) == 2 + 4 + 1 + 3 + 1  # heading, rows, IN, own training jets, fewer test jets
    w1m = next(v for k, v in scores.items() if k.startswith("w1m_bootstrap5"))
    assert f"| {1000 * w1m:.3g} |" in next(
        x for x in table if x.startswith("| MDMA, 14,000 jets |")
    )
    assert len(json.loads(Path("X/questions.json").read_text())) == 4
    assert Path("X/questions.png").exists() and Path("X/curves.png").exists()
    assert load_checkpoint(Path("X/EPiC-GAN-0/last.pt"), "mdma")["args"]["model"] == "epic"
    check_tables_outlive_runs(
        "X",
        ["questions.md", "questions.json"],
        lambda: reproduce.main([*FLAGS, "--questions", "data", "peer"]),
    )


def test_the_reduced_peer_has_its_own_rate_and_questions_share_their_runs(here, monkeypatch):
    taken = []

    def only_looking(cells, *args):
        taken.append((cells, args[-1]))
        return [{"name": "MDMA-0", "error": "no such jets"}]

    monkeypatch.setattr(reproduce, "sweep", only_looking)
    with pytest.raises(UserError, match="no run came through: MDMA-0: no such jets"):
        reproduce.main(["--reduced", "--seeds", "2", "--out", "X"])
    cells, shared = taken[0]
    assert [c["name"] for c in cells[:2]] == ["MDMA-0", "EPiC-GAN-0"] and len(cells) == 24
    assert shared == ["--quick", "--steps", "6000", "--lr-total", "6000"]
    args = train.parse_args([*shared, *cells[1]["flags"]])
    assert (args.model, args.lr, args.lr_total, args.matching) == ("epic", 3e-4, 6000, 0)
    with pytest.raises(UserError, match="no run came through"):
        reproduce.main(["--questions", "peer", "--out", "X"])
    cells, shared = taken[1]
    assert shared == [] and [c["flags"] for c in cells[:2]] == [[], ["--model", "epic"]]


def test_curves_of_w1m_are_in_the_tables_unit(tmp_path, figures_of):
    """The mean over two runs at the steps that both have; lines without a score don't count."""
    drawn = figures_of(reproduce.plots)
    for name, w1m in (("a", 0.002), ("b", 0.004)):
        write_log(tmp_path / name, [{"step": 5, "w1m_valid": w1m}, {"step": 6}])
    more = [{"step": step, "w1m_valid": 0.009} for step in (3, 7)]  # of one run only
    write_log(tmp_path / "b", [more[0], {"step": 5, "w1m_valid": 0.004}, more[1]])
    reproduce.draw_curves({"MDMA": [{"name": "a"}, {"name": "b"}]}, tmp_path, ["peer"])
    (line,) = drawn[0].axes[0].lines
    assert line.get_xydata().tolist() == [[5, pytest.approx(3)]]


def test_each_panel_has_its_column_and_a_dashed_line_of_the_training_jets(
    tmp_path, monkeypatch, figures_of
):
    """Each score is its column's number, that of the training jets 10 more."""
    drawn = figures_of(reproduce.plots)
    columns = list(reproduce.COLUMNS)

    def number(result, column, start=""):
        return [columns.index(column) + 10 * bool(start)]

    monkeypatch.setattr(reproduce, "values", number)
    reproduce.draw({"MDMA": [{}]}, tmp_path / "q.png")
    for axis, i in zip(drawn[0].axes, (0, 1, 2, 4), strict=True):  # without KPD
        dots, mean, dashed = (line.get_xdata() for line in axis.lines)
        assert (list(dots), list(mean), list(dashed)) == ([i], [i], [10 + i] * 2)
