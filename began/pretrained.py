"""ImageNet's weights for ResNet-18, the encoder that the thesis starts from (§3.1)."""

import sys
from pathlib import Path

import torch

from common.errors import UserError

from .model import ResNet18Encoder

# torchvision's ResNet18_Weights.DEFAULT
IMAGENET = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
NOT_HAD = "none (imagenet could not be had)"  # as args.json records it


def encoder_weights(which):
    """(state dict or None, what was really used) for --encoder-weights imagenet, none or a file."""
    if which in ("none", NOT_HAD):
        return None, which
    if which == "imagenet":
        return fetch_imagenet()
    if not Path(which).is_file():
        raise UserError(f"--encoder-weights {which}: must be imagenet, none or an existing file")
    try:
        state = torch.load(which, map_location="cpu", weights_only=True)
        ResNet18Encoder(1, state)
    except Exception:  # damaged, no dict, or another network's
        raise UserError(
            f"--encoder-weights {which}: not a state dict of torchvision's ResNet-18"
        ) from None
    return state, which


def fetch_imagenet():
    """As encoder_weights; without a network a warning, and None: random weights."""
    try:
        state = torch.hub.load_state_dict_from_url(
            IMAGENET, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as e:  # any network failure: urllib, ssl, socket, hash mismatch
        print(
            f"warning: ResNet-18's ImageNet weights can't be had ({e}); going on from random "
            "weights. By hand: --encoder-weights FILE with torchvision's resnet18-f37072fd.pth",
            file=sys.stderr,
        )
        return None, NOT_HAD
    return state, "imagenet"
