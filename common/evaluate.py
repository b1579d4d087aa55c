"""What every eval.py does with one checkpoint: find it, and say where its results go."""

import os
from pathlib import Path

from .cli import UserError
from .runs import newest_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent


def checkpoint_path(given, paper, prefer=("last.pt",)):
    """The checkpoint file that --ckpt names: a file, or a run directory, of which the first of `prefer` is taken.

    given: what was typed, None for the newest run under runs/<paper>.
    """
    path = Path(given).expanduser() if given else newest_checkpoint(paper).parent
    if not path.is_dir():
        return path
    for name in prefer:
        if (path / name).is_file():
            return path / name
    raise UserError(f"--ckpt {path}: no {' or '.join(prefer)} in this directory. "
                    "Give a run directory or a checkpoint file")


def output_dir(path, paper):
    """Where results of the checkpoint `path` go: beside it, as in a run directory.

    Those of a shipped checkpoint (in a folder's results/ of this repository), and of one that lies where nothing can be
    written, go to runs/<paper>/<its name>.
    """
    folder = Path(path).resolve().parent
    shipped = folder.name == "results" and folder.parent.parent == REPOSITORY
    if not shipped and os.access(folder, os.W_OK):
        return Path(path).parent
    where = Path("runs", paper, Path(path).stem)
    where.mkdir(parents=True, exist_ok=True)
    return where
