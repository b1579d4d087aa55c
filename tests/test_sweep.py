"""Tables of many runs: what is kept, tried again, and never mixed. (Whole tables: in the folders' tests.)"""

import argparse
from pathlib import Path

import pytest

from common.cli import UserError
from common.runs import read_log, save_atomic
from common.sweep import only, sweep


def namespace(**more):
    return argparse.Namespace(**{"jobs": 1, "threads": 1, "device": "cpu", "data_dir": "data", "n": 100} | more)


def cells(n):
    return [{"name": f"run{i}", "seed": i, "flags": ["--lr", "1"]} for i in range(n)]


def train(argv):
    """A run that leaves a checkpoint and nothing else."""
    where = Path(argv[argv.index("--out") + 1])
    where.mkdir()
    save_atomic({"format": 1, "paper": "none", "step": 2, "args": {"steps": 2}, "state": {}}, where / "last.pt")


def measure(where, cell, args):
    return {"seed_plus_n": cell["seed"] + args.n}


def values(results):
    return sorted(r["metrics"]["seed_plus_n"] for r in results)


def test_a_failed_run_is_named_and_tried_again(tmp_path, capsys):
    seen = []

    def fails(argv):
        seen.append(argv)
        raise UserError("no such data")

    for _ in range(2):
        found = sweep(cells(2), fails, None, namespace(), tmp_path, ["--quick"])
        assert [(r["name"], r["error"]) for r in found] == [("run0", "no such data"), ("run1", "no such data")]
    assert "run0: FAILED: no such data" in capsys.readouterr().err
    assert len(seen) == 4 == len(read_log(tmp_path / "results.jsonl"))
    assert seen[1] == ["--seed", "1", "--device", "cpu", "--data-dir", "data", "--quick", "--lr", "1",
                       "--out", str(tmp_path / "run1")]


def test_several_processes_find_the_same(tmp_path):
    """--jobs 2, as by default on two cores: train and measure are found by the processes that it starts."""
    assert values(sweep(cells(3), train, measure, namespace(jobs=2), tmp_path)) == [100, 101, 102]
    assert values(read_log(tmp_path / "results.jsonl")) == [100, 101, 102]


def test_other_flags_are_refused_in_the_same_folder(tmp_path):
    """A table may not average results of different trainings, nor of different measurements."""
    sweep([], train, measure, namespace(), tmp_path, ["--quick"])
    for args, shared in ((namespace(), ["--steps", "9"]), (namespace(n=200), ["--quick"])):
        with pytest.raises(UserError, match="other flags"):
            sweep([], train, measure, args, tmp_path, shared)
    sweep([], train, measure, namespace(jobs=2), tmp_path, ["--quick"])      # how many at a time changes no result


@pytest.mark.parametrize("content", [b"", b'{"train": ', b"\xff\xfe"])
def test_damaged_settings_are_named_and_nothing_is_lost(tmp_path, content):
    sweep(cells(1), train, measure, namespace(), tmp_path)
    results = (tmp_path / "results.jsonl").read_bytes()
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match="settings.json is damaged: .*another --out"):
        sweep(cells(1), train, measure, namespace(), tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == results
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(UserError, match="other flags"):
        sweep(cells(1), train, measure, namespace(), tmp_path)


def test_a_result_cut_short_costs_only_itself(tmp_path):
    """A kill or a full disk in the middle of a line: that run is measured again, once, and no other."""
    sweep(cells(3), train, measure, namespace(), tmp_path)
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], lines[2][:20]]))
    measured = []

    def counting(where, cell, args):
        measured.append(cell["name"])
        return measure(where, cell, args)

    for _ in range(2):
        assert values(sweep(cells(3), None, counting, namespace(), tmp_path)) == [100, 101, 102]
    assert measured == ["run2"] and len(read_log(path)) == 3


def test_only_these_rows_in_the_tables_order():
    rows = {"GAN": ["--a"], "WGAN": [], "ALI": ["--b"]}
    assert list(only(rows, ["ALI", "GAN"]).items()) == [("GAN", ["--a"]), ("ALI", ["--b"])]
    assert only(rows, None) == rows
    with pytest.raises(UserError, match="--only VAE: the rows are GAN, WGAN, ALI"):
        only(rows, ["GAN", "VAE"])
