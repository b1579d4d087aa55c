"""A feature extractor of one's own: a TorchScript module in a file."""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UserError
from .lenet import match_channels


class Scripted(nn.Module):
    """The module that torch.jit.load finds in a file, in float32.

    It is given images (B, 3, H, W) in [-1, 1], of 8 bits each and as large as they are, and returns
    features (B, D) or (B, D, 1, 1), or a pair of these and of logits (B, classes). `forward`
    returns features (B, D) and logits, (B, 0) where there are none: then there is no Inception
    score. The file's name and hash are in every key. Raises UserError for what isn't such a module.
    """

    kind = "scripted"

    def __init__(self, path):
        super().__init__()
        self.path = Path(path)
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()[:8]
        self.name = re.sub(r"\W", "-", f"{self.path.stem}_{digest}")
        try:
            self.net = torch.jit.load(self.path, map_location="cpu").float()
        except RuntimeError as e:
            raise UserError(
                f"--extractor {path} is no TorchScript module ({_last_line(e)}): make one with "
                "torch.jit.trace(net, images).save(FILE)"
            ) from None
        self.place = nn.Parameter(torch.empty(0))  # a module may have no parameter of its own

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = match_channels(images, 3).contiguous()
        try:
            found = self.net(x)
        except RuntimeError as e:
            raise UserError(
                f"--extractor {self.path} fails on images {tuple(x.shape)} ({_last_line(e)})"
            ) from None
        pair = isinstance(found, (tuple, list)) and len(found) == 2
        features, logits = found if pair else (found, x.new_zeros(len(x), 0))
        for part, name in ((features, "features"), (logits, "logits")):
            if not torch.is_tensor(part) or part.ndim < 2 or len(part) != len(x):
                what = tuple(part.shape) if torch.is_tensor(part) else type(part).__name__
                raise UserError(
                    f"--extractor {self.path} gives {name} {what} of images {tuple(x.shape)}; "
                    "(B, D) are needed, or a pair of features (B, D) and logits (B, classes)"
                )
            if not part.isfinite().all():
                raise UserError(f"--extractor {self.path} gives {name} that are not finite")
        return features.flatten(1), logits.flatten(1)


def _last_line(error):
    return str(error).strip().splitlines()[-1]
