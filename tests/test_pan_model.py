"""PAN's losses by hand, who gets gradient, and the authors' networks layer by layer."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pan.model import (
    LAMBDAS,
    MARGIN,
    DerainingNet,
    Discriminator,
    InpaintingNet,
    UNet,
    context_encoder_loss,
    discriminator_loss,
    hinge,
    overlap_weights,
    pair,
    perceptual_distances,
    perceptual_loss,
    pixel_loss,
    transformation_loss,
)


def images(n=4, size=32, channels=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, size, size, generator=rng) * 2 - 1


@pytest.fixture
def D():
    torch.manual_seed(0)
    return Discriminator(size=32, width=4)


# --- the losses


def test_distances_are_mean_absolute_differences_by_hand():
    real = [torch.tensor([[1.0, -2.0], [0.0, 4.0]]), torch.tensor([[3.0]])]
    fake = [torch.tensor([[2.0, -4.0], [0.0, 3.0]]), torch.tensor([[1.0]])]
    P_j = perceptual_distances(real, fake)
    assert P_j.tolist() == [(1 + 2 + 0 + 1) / 4, 2.0]  # signed, the first would be 0.5
    assert perceptual_loss(P_j, (5.0, 1.5)).item() == 5 * 1 + 1.5 * 2


def test_the_authors_weights_and_margin():
    assert LAMBDAS == (5.0, 1.5, 1.5, 1.0) and MARGIN == 3.0
    assert perceptual_loss(torch.tensor([1.0, 10.0, 100.0, 1000.0])).item() == 5 + 15 + 150 + 1000


def test_P_is_a_distance(D):
    y, other = images(seed=1), images(seed=2)
    y_features, other_features = D(y)[1], D(other)[1]
    assert perceptual_distances(y_features, y_features).tolist() == [0, 0, 0, 0]
    there = perceptual_distances(y_features, other_features)
    assert (there > 0).all()
    assert torch.equal(there, perceptual_distances(other_features, y_features))


def test_P_reaches_y_and_fake_alike():
    """D moves both F(y) and F(T(x)) by P's gradient; T moves F(T(x))."""
    real = torch.tensor([[1.0, -2.0]], requires_grad=True)
    fake = torch.tensor([[3.0, -5.0]], requires_grad=True)
    perceptual_distances([real], [fake]).sum().backward()
    assert fake.grad.tolist() == [[0.5, -0.5]] and real.grad.tolist() == [[-0.5, 0.5]]


def test_P_does_not_grow_with_the_image():
    """A mean, not a sum: tiled images are as far apart as one tile (with a layer of 1x1)."""
    layer = nn.Conv2d(3, 5, 1)
    y, fake = images(seed=1), images(seed=2)
    once = perceptual_distances([layer(y)], [layer(fake)])
    tiled = perceptual_distances([layer(y.repeat(2, 1, 3, 3))], [layer(fake.repeat(2, 1, 3, 3))])
    assert torch.allclose(once, tiled)


def test_hinge_by_hand_and_its_gradient():
    for P, value, slope in ((1.0, 2.0, -1.0), (2.9, 0.1, -1.0), (3.5, 0.0, 0.0)):
        P = torch.tensor(P, requires_grad=True)
        h = hinge(P, 3.0)
        h.backward()
        assert h.item() == pytest.approx(value) and P.grad.item() == slope


def test_above_the_margin_features_give_D_no_gradient(D):
    y, fake = images(seed=1), images(seed=2)
    P = perceptual_loss(perceptual_distances(D(y)[1], D(fake)[1]))
    for m, moves in ((P.item() / 2, False), (P.item() * 2, True)):
        D.zero_grad()
        hinge(P, m).backward(retain_graph=True)
        first = D.stages[0][0].weight.grad
        assert (first.abs().sum() > 0) == moves


def log_D(l):
    return math.log(1 / (1 + math.exp(-l)))


def log_not_D(l):
    return math.log(1 - 1 / (1 + math.exp(-l)))


def test_D_loss_by_hand():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    real_loss = -(log_D(2) + log_D(-1)) / 2
    fake_loss = -(log_not_D(0.5) + log_not_D(-3)) / 2
    assert discriminator_loss(real, fake, label=1.0).item() == pytest.approx(real_loss + fake_loss)
    P = torch.tensor(1.2)
    with_hinge = discriminator_loss(real, fake, P, m=3.0, label=1.0).item()
    assert with_hinge == pytest.approx(real_loss + fake_loss + 1.8)
    far = discriminator_loss(real, fake, torch.tensor(4.0), label=1.0).item()
    assert far == pytest.approx(real_loss + fake_loss)


def test_only_the_real_label_is_smoothed_and_by_default_to_the_authors_09():
    real, fake = torch.tensor([2.0]), torch.tensor([0.5])
    by_hand = -0.9 * log_D(2) - 0.1 * log_not_D(2) - log_not_D(0.5)
    assert discriminator_loss(real, fake).item() == pytest.approx(by_hand)
    l = torch.tensor([math.log(9)], requires_grad=True)  # D = 0.9
    discriminator_loss(l, fake).backward()
    assert l.grad.item() == pytest.approx(0, abs=1e-7)


def test_T_loss_by_hand_and_both_signs():
    fake = torch.tensor([0.5, -3.0])
    P = torch.tensor(1.2)
    saturating = (log_not_D(0.5) + log_not_D(-3)) / 2
    other = -(log_D(0.5) + log_D(-3)) / 2
    assert transformation_loss(fake, P).item() == pytest.approx(saturating + 1.2)
    assert transformation_loss(fake, P, saturating=False).item() == pytest.approx(other + 1.2)
    assert transformation_loss(fake).item() == pytest.approx(saturating)
    for saturates in (True, False):
        l = torch.zeros(1, requires_grad=True)
        transformation_loss(l, saturating=saturates).backward()
        assert l.grad.item() == pytest.approx(-0.5), "T wants D(T(x)) up"


def test_losses_are_finite_for_a_sure_D():
    sure = torch.tensor([200.0, -200.0])
    assert discriminator_loss(-sure, sure).isfinite()
    assert (
        transformation_loss(sure).isfinite()
        and transformation_loss(sure, saturating=False).isfinite()
    )


def test_who_gets_gradient(D):
    """D's step reaches D through y and T(x), but not T; T's step reaches T through D."""
    torch.manual_seed(0)
    T = DerainingNet(width=4)
    x, y = images(seed=3), images(seed=4)
    fake = T(x).detach()
    real_logits, real_features = D(y)
    fake_logits, fake_features = D(fake)
    P = perceptual_loss(perceptual_distances(real_features, fake_features))
    discriminator_loss(real_logits, fake_logits, P, m=100.0).backward()
    assert all(p.grad is None for p in T.parameters())
    assert all(p.grad is not None for p in D.parameters())

    D.zero_grad()
    D.requires_grad_(False)
    with torch.no_grad():
        real_features = D(y)[1]
    fake_logits, fake_features = D(T(x))
    P = perceptual_loss(perceptual_distances(real_features, fake_features))
    transformation_loss(fake_logits, P).backward()
    assert all(p.grad is None for p in D.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in T.deconv6.parameters())


# --- what is compared with


def test_pixel_losses_by_hand():
    fake, y = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])
    assert pixel_loss(fake, y, 1).item() == 2.0
    assert pixel_loss(fake, y).item() == 5.0
    same = torch.zeros(2, 2, requires_grad=True)
    pixel_loss(same, torch.zeros(2, 2)).backward()
    assert same.grad.isfinite().all(), "no square root: no NaN where both are equal"


def test_a_conditional_D_sees_the_pair():
    x, y = images(seed=1), images(seed=2)
    assert torch.equal(pair(x, y)[:, :3], x) and torch.equal(pair(x, y)[:, 3:], y)
    D = Discriminator(size=32, channels=6, width=4)
    logits, features = D(pair(x, y))
    assert logits.shape == (4,) and len(features) == 4
    assert not torch.allclose(logits, D(pair(y, x))[0])


def test_context_encoder_loss_by_hand():
    w = overlap_weights(4, 1)
    assert w.tolist() == [[10, 10, 10, 10], [10, 1, 1, 10], [10, 1, 1, 10], [10, 10, 10, 10]]
    y = torch.zeros(1, 1, 4, 4)
    fake = torch.full_like(y, 0.5)
    l = torch.tensor([0.3])
    by_hand = 0.999 * 0.25 * (12 * 10 + 4) / 16 - 0.001 * log_D(0.3)
    assert context_encoder_loss(fake, y, l, overlap=1).item() == pytest.approx(by_hand)
    plain = 0.999 * 0.25 - 0.001 * log_D(0.3)
    assert context_encoder_loss(fake, y, l, overlap=0).item() == pytest.approx(plain)


# --- networks


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "build, parameters",
    [
        (lambda: Discriminator(), 7_049_225),
        (lambda: Discriminator(64, centre=True), 7_048_841),
        (lambda: UNet(depth=8), 45_873_987),
        (lambda: UNet(depth=6), 24_369_923),
        (lambda: DerainingNet(), 263_429),
        (lambda: InpaintingNet(), 69_890_371),
    ],
    ids=["D", "D in-painting", "U-Net 8", "U-Net 6", "de-raining", "in-painting"],
)
def test_parameter_counts_are_the_authors(build, parameters):
    with torch.device("meta"):
        assert count(build()) == parameters


def test_features_are_layers_1_4_6_8_after_their_activation(D):
    y = images()
    logits, features = D(y)
    assert logits.shape == (4,)
    assert [f.shape[1:] for f in features] == [(4, 32, 32), (16, 8, 8), (32, 4, 4), (32, 2, 2)]
    convolutions = [layer for layer in D.modules() if isinstance(layer, nn.Conv2d)]
    assert [c.stride[0] for c in convolutions] == [1, 2, 1, 2, 1, 2, 1, 2, 2]
    assert torch.equal(features[0], torch.tanh(convolutions[0](y)))
    h = y
    for i, c in enumerate(convolutions[:8]):
        h = c(h)
        if i == 0:
            h = torch.tanh(h)
        else:
            h = (h - h.mean((0, 2, 3), keepdim=True)) / (
                h.var((0, 2, 3), False, keepdim=True) + 1e-4
            ).sqrt()
            h = F.leaky_relu(h, 0.2)
        if i in (0, 3, 5, 7):
            assert torch.allclose(h, features[(0, 3, 5, 7).index(i)], atol=1e-4)


@pytest.mark.parametrize("size", [32, 64, 65, 100, 128, 178, 256])
@pytest.mark.parametrize("centre", [False, True])
def test_D_takes_square_images_of_any_size(size, centre):
    logits, _ = Discriminator(size, 1, 2, centre)(torch.zeros(2, 1, size, size))
    assert logits.shape == (2,)


def test_D_for_in_painting_has_the_authors_sizes():
    _, features = Discriminator(64, width=2, centre=True)(torch.zeros(2, 3, 64, 64))
    assert [f.shape[-1] for f in features] == [62, 16, 8, 4]


def test_D_refuses_what_is_too_small():
    with pytest.raises(ValueError, match="16x16"):
        Discriminator(16)


def test_initial_weights():
    torch.manual_seed(0)
    D = Discriminator(64, width=16)
    T = UNet(6, width=16)
    spread = [c.weight.std().item() for c in D.modules() if isinstance(c, (nn.Conv2d, nn.Linear))]
    assert spread[0] == pytest.approx(0.5, rel=0.15)
    assert spread[1:] == pytest.approx([0.02] * 9, rel=0.15)
    spread = [
        c.weight.std().item() for c in T.modules() if isinstance(c, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    assert spread[0] == pytest.approx(0.05, rel=0.15)
    assert spread[1:] == pytest.approx([0.02] * 11, rel=0.15)
    rain = [c.weight.std().item() for c in DerainingNet().modules() if hasattr(c, "stride")]
    assert rain == pytest.approx([0.05] * 12, rel=0.15)
    biases = [p for net in (D, T) for name, p in net.named_parameters() if name.endswith("bias")]
    assert all((b == 0).all() for b in biases)


@pytest.mark.parametrize(
    "T, size",
    [
        (lambda: UNet(6, 1, 2), (64, 128)),
        (lambda: UNet(8, 3, 2), (256, 256)),
        (lambda: DerainingNet(3, 4), (17, 31)),
    ],
    ids=["U-Net 6", "U-Net 8", "de-raining"],
)
def test_T_gives_images_of_the_input_size(T, size):
    T = T()
    channels = T.last.out_channels if isinstance(T, UNet) else 3
    fake = T(torch.rand(2, channels, *size))
    assert fake.shape == (2, channels, *size)
    assert fake.abs().max() < 1


@pytest.mark.parametrize("size", [64, 128, 256])
def test_in_painting_gives_the_middle(size):
    T = InpaintingNet(size, 1, 2, bottleneck=5)
    codes = []
    T[[i for i, layer in enumerate(T) if isinstance(layer, nn.ReLU)][0] - 2].register_forward_hook(
        lambda module, args, out: codes.append(out.shape)
    )
    assert T(torch.zeros(3, 1, size, size)).shape == (3, 1, size // 2, size // 2)
    assert codes == [(3, 5, 1, 1)]


def test_sizes_that_a_T_cannot_take():
    with pytest.raises(ValueError, match="100x64 pixels are not multiples of 64"):
        UNet(6, 3, 2)(torch.zeros(1, 3, 64, 100))
    with pytest.raises(ValueError, match="not 7"):
        UNet(7)
    with pytest.raises(ValueError, match="96x96"):
        InpaintingNet(96)


def test_U_Net_joins_the_raw_output_of_the_mirrored_convolution():
    """The last deconvolution of 8 + 8 sees convolution 1 before BatchNorm; of 6 + 6 it does not."""
    for depth, size, seen in ((8, 256, 4), (6, 64, 2)):
        T = UNet(depth, 3, 2)
        x = images(2, size)
        inputs = []
        T.last.register_forward_hook(
            lambda module, args, out, inputs=inputs: inputs.append(args[0])
        )
        T(x)
        assert inputs[0].shape == (2, seen, size // 2, size // 2)
        raw = F.relu(T.convs[0](x))
        assert torch.equal(inputs[0][:, 2:], raw[:, : seen - 2])
        joined = [block[0][0].in_channels for block in T.deconvs]
        widths = {8: [16, 32, 32, 32, 32, 16, 8], 6: [16, 32, 32, 16, 8]}
        assert joined == widths[depth]


def test_de_raining_skips_are_sums():
    """Without its bottleneck T still sees x: the skips carry it."""
    T = DerainingNet(width=4).eval()
    with torch.no_grad():
        T.conv6[0].weight.zero_()
        a, b = T(images(seed=1)), T(images(seed=2))
    assert (a - b).abs().max() > 1e-4
    T = DerainingNet(width=4)
    seen = {}
    for name in ("conv2", "conv4", "deconv2", "deconv3", "deconv4", "deconv5"):
        getattr(T, name).register_forward_hook(
            lambda m, args, out, name=name: seen.update({name: (args[0], out)})
        )
    T(images(seed=1))
    assert torch.equal(seen["deconv3"][0], F.relu(seen["deconv2"][1] + seen["conv4"][1]))
    assert torch.equal(seen["deconv5"][0], F.relu(seen["deconv4"][1] + seen["conv2"][1]))


def test_dropout_is_an_option_of_the_first_three_layers():
    rates = [block[-1].p for block in UNet(8, 3, 2, dropout=0.5).deconvs]
    assert rates == [0.5] * 3 + [0.0] * 4
    assert {block[-1].p for block in UNet(8, 3, 2).deconvs} == {0.0}
