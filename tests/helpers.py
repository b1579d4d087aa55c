"""What several test files share: a smoke run in this process, and its networks; a log by hand."""

import contextlib
import importlib
import io
import json
import shutil
from pathlib import Path

import pytest

import common.runs

REPO = Path(__file__).resolve().parent.parent
FOLDERS = sorted(path.parent.name for path in REPO.glob("*/train.py"))
PICTURES = (
    "save_grid",
    "draw_samples",
    "curves",
    "densities",
    "surface",
    "draw_features",
    "draw_curves",
)


def smoke_run(folder, out, *flags):
    """Train with --smoke and `flags` into `out`, without pictures.

    Returns what last.pt holds, and as "metrics" what main() returns, the last line of the log.
    Raises what main() raises: UserError or SystemExit for flags that it refuses.
    """
    train = importlib.import_module(f"{folder}.train")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        for name in PICTURES:
            if hasattr(train, name):
                patch.setattr(train, name, lambda *args, **kwargs: None)
        patch.setattr(common.runs, "environment", lambda device: {})  # it asks git: 20 ms
        metrics = train.main(["--smoke", "--device", "cpu", "--out", str(out), *map(str, flags)])
    return common.runs.load_checkpoint(Path(out) / "last.pt", folder) | {"metrics": metrics}


def write_log(run, lines):
    """log.jsonl in the directory of a run."""
    run.mkdir(exist_ok=True)
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def check_tables_outlive_runs(folder, tables, again):
    """again() writes `tables` anew when a run's directory is gone from a sweep's folder, and when all are."""
    folder = Path(folder)
    runs = sorted(path for path in folder.iterdir() if path.is_dir())
    assert len(runs) > 1
    for gone in (runs[:1], runs[1:]):
        for run in gone:
            shutil.rmtree(run)
        for table in tables:
            (folder / table).unlink()
        again()
        assert all((folder / table).exists() for table in tables)
    assert not any(path.is_dir() for path in folder.iterdir()), "trained again"
