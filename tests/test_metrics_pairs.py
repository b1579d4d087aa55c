"""PSNR, SSIM, UQI and VIF against sewar, against loops over windows, and by hand."""

import math

import numpy as np
import pytest
import torch
from sewar import full_ref
from sewar.utils import Filter

from common.data import luminance
from common.metrics.images import grey_levels
from common.metrics.pairs import pair_metrics, psnr, ssim, uqi, vif


def smooth_images(n, channels, height, width, seed):
    """Whole numbers in [0, 255] with structure at several scales, and a flat corner."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.zeros(n, channels, height, width)
    for cells in (4, 16, 32):
        noise = torch.rand(n, channels, cells, cells, generator=rng)
        images += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    images = (images * 85).round()
    images[:, :, :20, :20] = 255
    return images


@pytest.fixture(
    scope="module", params=[(1, 64, 64), (3, 48, 61)], ids=["grey", "colour, not square"]
)
def images(request):
    """Pairs that differ a little, much, in contrast, and a pair whose one image is flat."""
    real = smooth_images(4, *request.param, seed=0)
    other = smooth_images(4, *request.param, seed=1)
    fake = real.clone()
    fake[0] = (real[0] + 8 * torch.randn(real[0].shape)).round().clamp(0, 255)
    fake[1] = other[1]
    fake[2] = (real[2] * 0.5 + 64).round()
    fake[3] = 128
    return fake, real


def by_sewar(score, fake, real):
    pairs = zip(
        fake.permute(0, 2, 3, 1).double().numpy(), real.permute(0, 2, 3, 1).double().numpy()
    )
    return torch.tensor([score(b.copy(), a.copy()) for a, b in pairs], dtype=torch.float64)


def sewar_ssim(real, fake):
    window = dict(fltr=Filter.GAUSSIAN, sigma=1.5, ws=11)
    return full_ref.ssim(real, fake, ws=11, MAX=255, fltr_specs=window)[0]


def sewar_uqi(real, fake):
    """SSIM without its constants. sewar's own uqi mistakes means for sums: it is another number."""
    return full_ref.ssim(real, fake, ws=8, K1=1e-9, K2=1e-9, MAX=255)[0]


def test_psnr_equals_sewar(images):
    expected = by_sewar(lambda real, fake: full_ref.psnr(real, fake, MAX=255), *images)
    assert torch.allclose(psnr(*images), expected, atol=1e-8)


def test_ssim_equals_sewar(images):
    assert torch.allclose(ssim(*images), by_sewar(sewar_ssim, *images), atol=1e-8)


def test_vif_equals_sewar(images):
    assert torch.allclose(vif(*images), by_sewar(full_ref.vifp, *images), atol=1e-6)


def test_uqi_equals_ssim_without_constants(images):
    fake, real = (x[:3] for x in images)  # the flat one is 0/0 there
    fake = fake[..., 20:, 20:]
    real = real[..., 20:, 20:]
    assert torch.allclose(uqi(fake, real), by_sewar(sewar_uqi, fake, real), atol=1e-6)


def test_uqi_equals_a_loop_over_windows(images):
    fake, real = (x[:, :, 10:40, 14:38] for x in images)
    expected = []
    for a, b in zip(fake.numpy().astype(float), real.numpy().astype(float)):
        values = []
        for x, y in zip(a, b):
            for i in range(x.shape[0] - 7):
                for j in range(x.shape[1] - 7):
                    values.append(one_uqi(x[i : i + 8, j : j + 8], y[i : i + 8, j : j + 8]))
        expected.append(np.mean(values))
    assert torch.allclose(uqi(fake, real), torch.tensor(expected, dtype=torch.float64), atol=1e-9)


def one_uqi(x, y):
    """Q of one window as img_qi.m has it: 4 σ_xy x̄ ȳ / ((σ_x² + σ_y²)(x̄² + ȳ²))."""
    spread = x.var() + y.var()
    means = x.mean() ** 2 + y.mean() ** 2
    if means == 0:
        return 1.0
    if spread == 0:
        return 2 * x.mean() * y.mean() / means
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 4 * covariance * x.mean() * y.mean() / (spread * means)


def test_values_by_hand():
    black = torch.zeros(1, 1, 48, 48)
    grey = torch.full_like(black, 51.0)
    assert psnr(grey, black).item() == pytest.approx(20 * math.log10(5))
    assert uqi(grey, 2 * grey).item() == pytest.approx(2 * 1 * 2 / (1 + 4))
    assert uqi(black, black).item() == 1
    c1 = 2.55**2
    assert ssim(grey, black).item() == pytest.approx(c1 / (51**2 + c1))
    assert vif(black, black).item() == 1
    red_and_green = torch.tensor([[255.0, 0, 0], [0, 255, 0]]).view(2, 3, 1, 1)
    assert luminance(red_and_green).flatten().tolist() == pytest.approx([76.245, 149.685])


def test_equal_images_are_perfect(images):
    _, real = images
    assert psnr(real, real).isinf().all()
    for score in (ssim, uqi, vif):
        assert torch.allclose(score(real, real), torch.ones(4, dtype=torch.float64))


def test_vif_sees_contrast_and_order(images):
    _, real = images
    stronger = 127 + 1.5 * (real - 127)
    assert (vif(stronger, real) > 1).all()
    assert (vif(real, stronger) < 1).all()


def test_scores_do_not_depend_on_the_batch(images):
    for score in (psnr, ssim, uqi, vif):
        alone = torch.cat([score(a[None], b[None]) for a, b in zip(*images)])
        assert torch.allclose(score(*images), alone)


def test_keys_say_range_channels_and_count():
    x = torch.rand(5, 3, 48, 48) * 2 - 1
    y = torch.rand(5, 3, 48, 48) * 2 - 1
    assert set(pair_metrics(x, y)) == {"psnr_rgb8_5", "ssim_rgb8_5", "uqi_rgb8_5", "vif_rgb8_5"}
    assert "psnr_y8_5" in pair_metrics(x, y, luminance=True)
    grey = pair_metrics(x[:, :1], y[:, :1], luminance=True)
    assert set(grey) == {"psnr_grey8_5", "ssim_grey8_5", "uqi_grey8_5", "vif_grey8_5"}


def test_pair_metrics_are_means_over_8_bit_images():
    x = torch.rand(5, 3, 48, 48) * 2 - 1
    y = (x + 0.1).clamp(-1, 1)
    found = pair_metrics(x, y, batch=2)
    a, b = grey_levels(x).double(), grey_levels(y).double()
    assert found["ssim_rgb8_5"] == pytest.approx(ssim(a, b).mean().item())
    assert found["psnr_rgb8_5"] == pytest.approx(psnr(a, b).mean().item())
    found = pair_metrics(x, y, luminance=True)
    assert found["vif_y8_5"] == pytest.approx(vif(luminance(a), luminance(b)).mean().item())
    tiny = torch.full_like(x, 0.5 / 255)
    assert pair_metrics(x * 0, tiny)["psnr_rgb8_5"] == math.inf, (
        "127.5 and 127.75 both round to 128"
    )


def test_what_is_too_small_is_left_out_or_refused():
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    y = torch.rand(2, 1, 32, 32) * 2 - 1
    assert set(pair_metrics(x, y)) == {"psnr_grey8_2", "ssim_grey8_2", "uqi_grey8_2"}
    with pytest.raises(ValueError, match="vif needs 41 pixels or more a side, not 32x32"):
        vif(x, y)
    assert vif(torch.rand(1, 1, 41, 41) * 255, torch.rand(1, 1, 41, 41) * 255).isfinite().all()
    with pytest.raises(ValueError, match="one shape"):
        pair_metrics(x, y[:1])
    with pytest.raises(ValueError, match="one shape"):
        ssim(x, y[..., :20])
