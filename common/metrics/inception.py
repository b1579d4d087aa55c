"""Inception v3 as TensorFlow's FID has it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .lenet import match_channels


class InceptionTF(nn.Module):
    """The Inception v3 of the original FID code, ported to torch; reads pytorch-fid's weights file.

    `forward` takes images (B, 1 or 3, H, W) in [-1, 1] of any size; they are resized to 299 x 299 (bilinear,
    no antialias, as pytorch-fid does). Returns the pool features (B, 2048) and 1008 logits without the bias,
    because the original Inception score leaves it out (improved-gan, torch-fidelity's logits_unbiased).
    Architecture: Szegedy et al. 2015 (arXiv:1512.00567), but average pools do not count the padding, and the
    last block pools by maximum.
    """

    kind = "inception"

    def __init__(self, name: str = "inception_tf"):
        super().__init__()
        self.name, self.dim = name, 2048
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, _average_pool)
        self.Mixed_7c = _block_e(2048, _max_pool)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(
            match_channels(images, 3), (299, 299), mode="bilinear", align_corners=False
        )
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halve(x)))  # (B, 192, 71, 71)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_halve(x))))  # (B, 288, 35, 35)
        x = self.Mixed_6e(
            self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        )  # (B, 768, 17, 17)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, 8, 8)
        features = x.mean((2, 3))
        return features, F.linear(features, self.fc.weight)


class _Conv(nn.Module):
    """Convolution, BatchNorm, ReLU; the attributes' names are the weights file's."""

    def __init__(self, c_in, c_out, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Parallel branches on one input, concatenated by channel.

    branches: dict from the branch's name to its layers (suffix, channels, kernel); a kernel "s2" is a 3x3 of
    stride 2 without padding, all others keep the image's size. A list in place of a layer forks the branch.
    pool: what the last branch pools with; pool_channels: of the convolution after it, None for none.
    """

    def __init__(self, c_in, branches, pool, pool_channels=None):
        super().__init__()
        self.pool, self.chains = pool, []
        for name, layers in branches.items():
            chain, c = [], c_in
            for layer in layers:
                fork = layer if isinstance(layer, list) else [layer]
                chain.append([name + suffix for suffix, _, _ in fork])
                for suffix, c_out, kernel in fork:
                    self.add_module(name + suffix, _same(c, c_out, kernel))
                c = sum(c_out for _, c_out, _ in fork)
            self.chains.append(chain)
        self.branch_pool = _Conv(c_in, pool_channels, 1) if pool_channels else nn.Identity()

    def forward(self, x):
        outputs = []
        for chain in self.chains:
            y = x
            for fork in chain:
                y = torch.cat([getattr(self, name)(y) for name in fork], 1)
            outputs.append(y)
        return torch.cat([*outputs, self.branch_pool(self.pool(x))], 1)


def _same(c_in, c_out, kernel):
    if kernel == "s2":
        return _Conv(c_in, c_out, 3, stride=2)
    height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    return _Conv(c_in, c_out, (height, width), padding=(height // 2, width // 2))


def _average_pool(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _max_pool(x):
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _halve(x):
    return F.max_pool2d(x, 3, stride=2)


def _block_a(c_in, pool_channels):
    return _Mixed(
        c_in,
        {
            "branch1x1": [("", 64, 1)],
            "branch5x5": [("_1", 48, 1), ("_2", 64, 5)],
            "branch3x3dbl": [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3)],
        },
        _average_pool,
        pool_channels,
    )


def _block_b(c_in):
    return _Mixed(
        c_in,
        {
            "branch3x3": [("", 384, "s2")],
            "branch3x3dbl": [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, "s2")],
        },
        _halve,
    )


def _block_c(c_in, c):
    return _Mixed(
        c_in,
        {
            "branch1x1": [("", 192, 1)],
            "branch7x7": [("_1", c, 1), ("_2", c, (1, 7)), ("_3", 192, (7, 1))],
            "branch7x7dbl": [
                ("_1", c, 1),
                ("_2", c, (7, 1)),
                ("_3", c, (1, 7)),
                ("_4", c, (7, 1)),
                ("_5", 192, (1, 7)),
            ],
        },
        _average_pool,
        192,
    )


def _block_d(c_in):
    return _Mixed(
        c_in,
        {
            "branch3x3": [("_1", 192, 1), ("_2", 320, "s2")],
            "branch7x7x3": [
                ("_1", 192, 1),
                ("_2", 192, (1, 7)),
                ("_3", 192, (7, 1)),
                ("_4", 192, "s2"),
            ],
        },
        _halve,
    )


def _block_e(c_in, pool):
    return _Mixed(
        c_in,
        {
            "branch1x1": [("", 320, 1)],
            "branch3x3": [("_1", 384, 1), [("_2a", 384, (1, 3)), ("_2b", 384, (3, 1))]],
            "branch3x3dbl": [
                ("_1", 448, 1),
                ("_2", 384, 3),
                [("_3a", 384, (1, 3)), ("_3b", 384, (3, 1))],
            ],
        },
        pool,
        192,
    )
