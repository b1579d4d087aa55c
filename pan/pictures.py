"""What train.py and eval.py draw: rows of x, T(x), y, and the curves of a log."""

from pathlib import Path

import torch
from torch import Tensor

from common.plots import curves
from common.runs import read_log

from .tasks import paste

PANELS = [
    ["L_D", "L_T"],
    ["P"],
    ["P_1", "P_2", "P_3", "P_4"],
    ["hinge_active", "D_real", "D_fake"],
    ["pixel_l1"],
]


def whole(task, x: Tensor, image: Tensor) -> Tensor:
    """y or T(x) as a whole image: in-painting's is x with its middle replaced."""
    return paste(x, image) if task == "inpainting" else image


def in_rows(task, x: Tensor, *images: Tensor) -> Tensor:
    """x, then each of `images` beside it, pair by pair: (B (1 + n), C, H, W)."""
    columns = [x.float(), *(whole(task, x, image.float()) for image in images)]
    return torch.stack(columns, 1).flatten(0, 1)


def draw_curves(folder):
    """curves.png of the run in `folder`: losses, P and P_j, the hinge, D's judgement, pixels."""
    log = read_log(Path(folder) / "log.jsonl")
    there = {key for line in log for key in line}
    panels = [keys for keys in PANELS if there & set(keys)]
    curves(log, panels, Path(folder) / "curves.png", smooth=10)
