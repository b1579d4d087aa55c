"""What train.py and eval.py draw: rows of x, T(x), y, and the curves of a log."""

import torch
from torch import Tensor

from common.plots import curves

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


def in_rows(*images: Tensor) -> Tensor:
    """n sets of images (B, C, H, W) side by side, pair by pair: (B n, C, H, W)."""
    return torch.stack([part.float() for part in images], 1).flatten(0, 1)


def draw_curves(log, path):
    """Losses, P and P_j, the hinge, D's judgement and the error in pixels over the steps."""
    there = {key for line in log for key in line}
    panels = [keys for keys in PANELS if there & set(keys)]
    curves(log, panels, path, smooth=10)
