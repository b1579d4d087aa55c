"""Inception v3 as TensorFlow's FID has it: the optional package pytorch-fid's port."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..torchvision_cpu import import_torchvision
from .lenet import match_channels

INSTALL = "pip install --no-deps pytorch-fid"


class InceptionTF(nn.Module):
    """The Inception v3 of the original FID code; reads pytorch-fid's weights file.

    `forward` takes images (B, 1 or 3, H, W) in [-1, 1] of any size; they are resized to 299 x 299
    (bilinear, no antialias, as pytorch-fid does). Returns the pool features (B, 2048) and 1008
    logits without the bias, because the original Inception score leaves it out (improved-gan,
    torch-fidelity's logits_unbiased). To be used in eval mode.
    Raises UserError where pytorch-fid is not installed.
    """

    kind = "inception"

    def __init__(self, name: str = "inception_tf"):
        super().__init__()
        self.name = name
        self.net = build_network()
        self.fc = self.net.fc
        self.net.fc = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = match_channels(images, 3)
        x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        features = self.net(x)
        return features, F.linear(features, self.fc.weight)


def build_network() -> nn.Module:
    """torchvision's Inception v3 with the blocks in which TensorFlow's differs, without weights."""
    torchvision = import_torchvision()
    try:
        from pytorch_fid import inception as blocks
    except ImportError as e:
        raise UserError(f"Inception's network is pytorch-fid's ({e}): {INSTALL}") from None
    net = torchvision.models.inception_v3(
        weights=None, init_weights=False, num_classes=1008, aux_logits=False
    )
    net.Mixed_5b = blocks.FIDInceptionA(192, pool_features=32)
    net.Mixed_5c = blocks.FIDInceptionA(256, pool_features=64)
    net.Mixed_5d = blocks.FIDInceptionA(288, pool_features=64)
    net.Mixed_6b = blocks.FIDInceptionC(768, channels_7x7=128)
    net.Mixed_6c = blocks.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6d = blocks.FIDInceptionC(768, channels_7x7=160)
    net.Mixed_6e = blocks.FIDInceptionC(768, channels_7x7=192)
    net.Mixed_7b = blocks.FIDInceptionE_1(1280)
    net.Mixed_7c = blocks.FIDInceptionE_2(2048)
    return net


def rename(state_dict: dict) -> dict:
    """The weights file's names -> those of InceptionTF."""
    return {
        name if name.startswith("fc.") else f"net.{name}": value
        for name, value in state_dict.items()
    }
