"""Tables of many runs: what is kept, and what is tried again. (Whole tables: in the folders' tests.)"""

import argparse

from common.cli import UserError
from common.runs import read_log
from common.sweep import sweep


def test_a_failed_run_is_named_and_tried_again(tmp_path, capsys):
    args = argparse.Namespace(jobs=1, threads=1, device="cpu", data_dir="data")
    cells = [{"name": f"run{i}", "seed": i, "flags": ["--lr", "1"]} for i in range(2)]
    seen = []

    def train(argv):
        seen.append(argv)
        raise UserError("no such data")

    for _ in range(2):
        found = sweep(cells, train, None, args, tmp_path, ["--quick"])
        assert [(r["name"], r["error"]) for r in found] == [("run0", "no such data"), ("run1", "no such data")]
    assert "run0: FAILED: no such data" in capsys.readouterr().err
    assert len(seen) == 4 == len(read_log(tmp_path / "results.jsonl"))
    assert seen[1] == ["--seed", "1", "--device", "cpu", "--data-dir", "data", "--quick", "--lr", "1",
                       "--out", str(tmp_path / "run1")]
