"""CA-GAN: each equation against values worked out by hand or condition by condition, mixed batches,
conditions.
"""

import argparse
import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from cagan import eval as cagan_eval
from cagan import classifier, metrics, reproduce, toy, train
from cagan.conditions import (
    condition_names,
    each_condition,
    set_conditions,
    to_conditions,
    unbalance,
    uniform_targets,
)
from cagan.metrics import ConditionalScores
from cagan.model import (
    ADVERSARIAL,
    Discriminator,
    Generator,
    ac_discriminator_loss,
    ac_generator_loss,
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    ca_discriminator_loss,
    ca_generator_loss,
    classification_loss,
    discriminate,
    gan_c_losses,
    gradient_penalty,
    mix,
    modified_ac_discriminator_loss,
    modified_ac_generator_loss,
    unmix,
)
from cagan.train import build
from cagan.toy import CENTRES, label_accuracies, train_toy
from common import evaluate
from common.cli import UserError
from common.data import ImageSet, load_images
from common.metrics.extractors import load_extractor
from common.metrics.images import grey_levels
from common.metrics.lenet import accuracy as lenet_accuracy
from common.rng import step_rng
from common.runs import read_log
from tests.helpers import check_tables_outlive_runs, write_log

T = torch.tensor
CPU = torch.device("cpu")


def count(net):
    return sum(p.numel() for p in net.parameters())


def batch(B=12, S=5, extra=0, seed=0, multi=False):
    """Random outputs of D on real and generated images, and their conditions."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(B, S + extra, generator=rng, dtype=torch.float64)
    if multi:
        cnds = [torch.randint(2, (B, S), generator=rng).double() for _ in range(2)]
    else:
        cnds = [
            torch.eye(S, dtype=torch.float64)[torch.randint(S, (B,), generator=rng)]
            for _ in range(2)
        ]
    return draw().requires_grad_(), cnds[0], draw().requires_grad_(), cnds[1]


# --- CA-GAN, (11)-(20)


@pytest.mark.parametrize("adv", ADVERSARIAL)
@pytest.mark.parametrize("multi", [False, True])
def test_the_vectorised_loss_is_the_sum_over_conditions(adv, multi):
    """(17), (18) = (11), (12), the sums of (13), (14) condition by condition."""
    real, cnd, fake, cnd_fake = batch(multi=multi)
    each = [gan_c_losses(real[:, c], cnd[:, c], fake[:, c], cnd_fake[:, c], adv) for c in range(5)]
    assert ca_discriminator_loss(real, cnd, fake, cnd_fake, adv).item() == pytest.approx(
        sum(d.item() for d, _ in each)
    )
    assert ca_generator_loss(fake, cnd_fake, adv).item() == pytest.approx(
        sum(g.item() for _, g in each)
    )


def test_lsgan_by_hand():
    """(19), (20) on two images and three conditions, the second image having two of them."""
    out, cnd = T([[0.5, 9.0, 9.0], [9.0, 2.0, -1.0]]), T([[1.0, 0, 0], [0, 1, 1]])
    assert ca_discriminator_loss(out, cnd, out, cnd).item() == pytest.approx(
        (0.25 + 1 + 4) / 2 + (0.25 + 4 + 1) / 2
    )
    assert ca_generator_loss(out, cnd).item() == pytest.approx((0.25 + 1 + 4) / 2)


def test_adversarial_losses_by_hand():
    d = T(math.log(3.0))  # sigmoid 3/4
    values = {name: [f(d).item() for f in fs] for name, fs in ADVERSARIAL.items()}
    assert values["minimax"] == pytest.approx(
        [math.log(4 / 3), math.log(4), -math.log(4)]
    )  # −log D, −log(1 − D)
    assert values["vanilla"] == pytest.approx([math.log(4 / 3), math.log(4), math.log(4 / 3)])
    assert [f(T(0.25)).item() for f in ADVERSARIAL["hinge"]] == [0.75, 1.25, -0.25]
    assert [f(T(3.0)).item() for f in ADVERSARIAL["hinge"]] == [0.0, 4.0, -3.0]
    assert [f(T(0.25)).item() for f in ADVERSARIAL["wgan-gp"]] == [-0.25, 0.25, -0.25]
    assert [f(T(0.25)).item() for f in ADVERSARIAL["lsgan"]] == [0.5625, 0.0625, 0.5625]


@pytest.mark.parametrize("adv", ADVERSARIAL)
def test_heads_of_absent_conditions_get_exactly_no_gradient(adv):
    real, cnd, fake, cnd_fake = batch(multi=True)
    (
        ca_discriminator_loss(real, cnd, fake, cnd_fake, adv)
        + ca_generator_loss(fake, cnd_fake, adv)
    ).backward()
    assert (real.grad[cnd == 0] == 0).all() and (fake.grad[cnd_fake == 0] == 0).all()
    assert (real.grad[cnd == 1] != 0).sum() > 5


@pytest.mark.parametrize("P_r, P_g", [(0.55, 0.10), (0.05, 0.10), (0.1, 0.1)])
def test_lsgan_fixed_point_with_unequal_frequencies(P_r, P_g):
    """Where real and generated look alike, the best D_c is P_r(c) / (P_r(c) + P_g(c)): the root of
    the gradient.
    """
    n = 200
    cnd, cnd_fake = torch.zeros(n, 1), torch.zeros(n, 1)
    cnd[: round(P_r * n)], cnd_fake[: round(P_g * n)] = 1, 1
    d = T(P_r / (P_r + P_g), requires_grad=True)
    ca_discriminator_loss(d.expand(n, 1), cnd, d.expand(n, 1), cnd_fake).backward()
    assert d.grad.item() == pytest.approx(0, abs=1e-6)


# --- AC-GAN, (1)-(10)


def test_classification_loss_is_zero_for_perfect_logits_and_log_S_for_none():
    cnd = torch.eye(10)
    assert classification_loss(100 * cnd, cnd).item() == pytest.approx(0, abs=1e-6)
    assert classification_loss(torch.zeros(10, 10), cnd).item() == pytest.approx(math.log(10))


def test_classification_loss_of_exclusive_groups():
    logits = T([[math.log(2.0), 0.0, 0.0, 0.0]])  # (2/3, 1/3) and (1/2, 1/2)
    assert classification_loss(logits, T([[1.0, 0, 0, 1]]), [2, 2]).item() == pytest.approx(
        math.log(1.5) + math.log(2)
    )
    assert classification_loss(logits, T([[1.0, 0, 0, 0]]), [2, 2]).item() == pytest.approx(
        math.log(1.5)
    ), "no group 2"


def test_ac_gan_by_hand():
    real, fake = T([[math.log(3.0), 5.0, 5.0]]), T([[0.0, math.log(3.0), 0.0]])
    cnd, cnd_fake = T([[1.0, 0]]), T([[0.0, 1]])
    adv_d, cls_r, cls_g = math.log(4 / 3) + math.log(2), math.log(2), math.log(4)
    assert ac_discriminator_loss(real, cnd, fake, cnd_fake).item() == pytest.approx(
        adv_d + cls_r + cls_g
    )  # (1)
    assert ac_generator_loss(fake, cnd_fake).item() == pytest.approx(-math.log(2) + cls_g)  # (2)
    assert modified_ac_discriminator_loss(
        real, cnd, fake, 0.1, adv="minimax"
    ).item() == pytest.approx(adv_d + 0.1 * cls_r)  # (7)
    assert modified_ac_generator_loss(fake, cnd_fake, 0.1, adv="minimax").item() == pytest.approx(
        -math.log(2) + 0.1 * cls_g
    )  # (8)
    assert adversarial_discriminator_loss(T([0.5]), T([0.25]), "lsgan").item() == pytest.approx(
        0.25 + 0.0625
    )
    assert adversarial_generator_loss(T([0.25]), "lsgan").item() == pytest.approx(0.5625)


@pytest.mark.parametrize(
    "loss, from_L_d, from_L_g",
    [
        ("ac", {"adv", "cls", "adv'", "cls'"}, {"adv'", "cls'"}),
        ("modified_ac", {"adv", "cls", "adv'"}, {"adv'", "cls'"}),
        ("modified_ac_with_generated", {"adv", "cls", "adv'", "cls'"}, {"adv'", "cls'"}),
        ("ca", {"cls", "cls'"}, {"cls'"}),
    ],
)
def test_which_outputs_of_D_each_loss_reaches(loss, from_L_d, from_L_g):
    """D_adv, D_cls of real images, and with ' of generated ones. CA-GAN has no D_adv: its first
    condition is idle.
    """
    real, cnd, fake, cnd_fake = batch(extra=1)
    if loss == "ca":
        cnd, cnd_fake = (torch.cat([torch.zeros(12, 1), c], 1) for c in (cnd, cnd_fake))
    both = train.losses(train.parse_args(["--loss", loss]), [5], real, cnd, fake, cnd_fake)
    for L, expected in zip(both, (from_L_d, from_L_g)):
        grads = torch.autograd.grad(L, (real, fake), allow_unused=True)
        grads = [torch.zeros_like(real) if grad is None else grad for grad in grads]
        parts = {
            "adv": grads[0][:, 0],
            "cls": grads[0][:, 1:],
            "adv'": grads[1][:, 0],
            "cls'": grads[1][:, 1:],
        }
        assert {name for name, grad in parts.items() if grad.any()} == expected


@pytest.mark.parametrize(
    "loss, depends", [("modified_ac", False), ("modified_ac_with_generated", True), ("ac", True)]
)
def test_who_in_D_sees_the_conditions_asked_for(loss, depends):
    """Modified AC-GAN's L_d leaves D_cls alone on generated images; the original's and §6.1's
    variant do not.
    """
    real, cnd, fake, cnd_fake = batch(extra=1)
    args = train.parse_args(["--loss", loss])
    L_d, _ = train.losses(args, [5], real, cnd, fake, cnd_fake)
    L_d.backward()
    assert bool((fake.grad[:, 1:] != 0).any()) == depends
    assert (
        train.losses(args, [5], real, cnd, fake, cnd_fake.roll(1, 1))[0].item() != L_d.item()
    ) == depends


def test_the_variant_of_section_6_1():
    real, cnd, fake, cnd_fake = batch(extra=1)
    with_g, without = (
        train.losses(
            train.parse_args(["--loss", loss, "--lambda-cls", "0.3"]),
            [5],
            real,
            cnd,
            fake,
            cnd_fake,
        )
        for loss in ("modified_ac_with_generated", "modified_ac")
    )
    assert (with_g[0] - without[0]).item() == pytest.approx(
        0.3 * classification_loss(fake[:, 1:], cnd_fake).item()
    )
    assert with_g[1].item() == without[1].item()


# --- WGAN-GP, per condition


def test_gradient_penalty_of_linear_critics():
    """D_c(x) = w_c·x: ‖∇D_c‖ = ‖w_c‖ everywhere; only active critics count, each once."""
    w = torch.randn(4, 3, dtype=torch.float64)
    D = lambda x: x.flatten(1) @ w.float()
    x, fake = torch.rand(6, 1, 2, 2), torch.rand(6, 1, 2, 2)
    active = T([[1.0, 0, 0]] * 3 + [[0, 1.0, 1.0]] * 2 + [[0, 0, 0]])
    each = (w.norm(dim=0) - 1) ** 2
    expected = (3 * each[0] + 2 * (each[1] + each[2])) / 6
    assert gradient_penalty(D, x, fake, torch.rand(6), active).item() == pytest.approx(
        expected.item(), rel=1e-4
    )


@pytest.mark.parametrize("heads", [1, 3])
def test_gradient_penalty_of_a_batch_without_an_active_condition_is_zero(heads):
    D = Discriminator(heads, 16, width=4, convs=1, norm="none")
    x, fake = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)
    penalty = gradient_penalty(D, x, fake, torch.rand(2), torch.zeros(2, heads))
    assert penalty.shape == () and str(penalty.item()) == "0.0", "not -0.0"
    one = torch.zeros(2, heads)
    one[0, 0] = 1
    alone = gradient_penalty(D, x[:1], fake[:1], T([0.5]), one[:1])
    assert gradient_penalty(D, x, fake, T([0.5, 0.5]), one).item() == pytest.approx(
        alone.item() / 2, rel=1e-4
    )


def test_losses_of_a_batch_without_an_active_condition_are_zero():
    """Nobody is judged: L_d = L_g = 0, no gradient; the log's mean over nothing is 0, not nan."""
    real, cnd, fake, cnd_fake = batch()
    none = torch.zeros_like(cnd)
    for adv in ADVERSARIAL:
        L_d, L_g = (
            ca_discriminator_loss(real, none, fake, none, adv),
            ca_generator_loss(fake, none, adv),
        )
        grads = torch.autograd.grad(L_d + L_g, (real, fake))
        assert L_d.item() == L_g.item() == 0 and not any(grad.any() for grad in grads)
    assert classification_loss(real, none, [2, 3]).item() == 0
    assert train.mean_judgement(train.parse_args([]), real, none).item() == 0


def test_the_logs_mean_is_over_the_heads_that_judge():
    out, cnd = T([[1.0, 5.0, 2.0], [9.0, 9.0, 9.0]]), T([[1.0, 0, 1], [0, 0, 0]])
    assert train.mean_judgement(train.parse_args([]), out, cnd).item() == 1.5
    ac = train.parse_args(["--loss", "ac"])
    assert train.mean_judgement(ac, out, cnd[:, :2]).item() == 5.0, "D_adv of both images"


def test_the_logs_mean_is_over_the_heads_of_all_processes(monkeypatch):
    """Three heads of the other process judge 2.0 each, one of ours 9.0."""
    others = iter([6.0, 3.0])
    monkeypatch.setattr(train, "average", lambda value: (value + next(others)) / 2)
    mean = train.mean_judgement(train.parse_args([]), T([[9.0, 5.0]]), T([[1.0, 0.0]]))
    assert mean.item() == pytest.approx(15 / 4)


def test_gradient_penalty_looks_between_the_images():
    seen = []
    D = lambda x: (seen.append(x.detach()), x.flatten(1) ** 2)[1]
    x, fake, epsilon = torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1), T([0.25, 0.5, 1.0])
    gradient_penalty(D, x, fake, epsilon, torch.ones(3, 1))
    assert seen[0].flatten().tolist() == [0.75, 0.5, 0.0]


# --- mixed batches, §4


@pytest.mark.parametrize("B", [8, 7])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5])
def test_unmix_is_the_inverse_of_mix(B, share):
    real, fake = torch.arange(B), 100 + torch.arange(B)
    a, b = mix(real, fake, share)
    assert (a >= 100).sum() == (b < 100).sum() == round(share * B)
    assert [t.tolist() for t in unmix(a, b, share)] == [real.tolist(), fake.tolist()]


def test_mixing_matters_under_batchnorm_only():
    torch.manual_seed(0)
    x, fake = torch.randn(8, 1, 16, 16), torch.randn(8, 1, 16, 16) * 0.2
    for norm in ("instance", "none", "batch"):
        D = Discriminator(3, 16, width=4, convs=1, norm=norm)
        plain, mixed = (torch.cat(discriminate(D, x, fake, share)) for share in (0.0, 0.5))
        assert torch.allclose(plain, mixed, atol=1e-5) == (norm != "batch"), norm


def test_schedules_of_mixing():
    late, ramp, never = (
        train.parse_args(words) for words in (["--mix-from", "100"], ["--mix-ramp", "0.01"], [])
    )
    assert [train.mix_share(late, e) for e in (0, 99, 100, 149)] == [0, 0, 0.5, 0.5]
    assert [train.mix_share(ramp, e) for e in (0, 20, 50, 99)] == [0, 0.2, 0.5, 0.5]
    assert train.mix_share(never, 1000) == 0


def test_toy_mixing_brings_rare_labels_back():
    """§4 in the plane, one seed; `python -m cagan.toy` has three."""
    rare = {}
    for schedule in ("never mixed", "mixed from the start"):
        history, _ = train_toy("ca", schedule, seed=0, steps=300, every=300)
        rare[schedule] = sum(history[-1][1][1:]) / 3
    assert rare["never mixed"] < 0.5 < 0.9 < rare["mixed from the start"]


@pytest.mark.parametrize(
    "schedule, shares",
    [
        ("never mixed", [0.0] * 9),
        ("mixed late", [0.0] * 6 + [0.5] * 3),
        ("mixed from the start", [0.5] * 9),
    ],
)
def test_toy_schedules(monkeypatch, schedule, shares):
    """Real points have .85 of label 0, G is asked for each label equally often; its loss is of what
    it was asked.
    """
    seen, asked = [], []
    monkeypatch.setattr(
        toy,
        "discriminate",
        lambda D, x, fake, share: (seen.append(share), discriminate(D, x, fake, share))[1],
    )
    d_loss, g_loss = toy.modified_ac_discriminator_loss, toy.modified_ac_generator_loss
    monkeypatch.setattr(
        toy,
        "modified_ac_discriminator_loss",
        lambda real, cnd, *rest: (asked.append(cnd.mean(0)[0].item()), d_loss(real, cnd, *rest))[1],
    )
    monkeypatch.setattr(
        toy,
        "modified_ac_generator_loss",
        lambda fake, cnd, *rest: (asked.append(cnd.mean(0)[0].item()), g_loss(fake, cnd, *rest))[1],
    )
    train_toy("modified_ac", schedule, seed=0, steps=9, every=9, batch=512)
    assert seen == shares
    assert sum(asked[::2]) / 9 == pytest.approx(0.85, abs=0.03)
    assert sum(asked[1::2]) / 9 == pytest.approx(0.25, abs=0.03)


def test_toy_spread_and_near(here, monkeypatch):
    """Points at ±0.6 and ±1.2 from the centres on the x axis: half of them within 3 · 0.3, sd by
    hand, y exact.
    """
    offsets = T([[-1.2, 0.0], [-0.6, 0], [0.6, 0], [1.2, 0]])
    points = CENTRES[:, None] + offsets
    monkeypatch.setattr(toy, "train_toy", lambda *a, **k: ([(1, [1.0] * 4)], points))
    monkeypatch.setattr(toy, "draw_toy", lambda *a: None)
    result = toy.main(["--steps", "1", "--seeds", "1", "--out", "t"])[0]
    assert result["near"] == [0.5] * 4
    assert result["spread"] == pytest.approx([math.sqrt(2 * (1.44 + 0.36) / 3) / 2] * 4)


@pytest.fixture
def toy_results():
    """One run of each loss and schedule, all alike, after two measurements."""
    run = {"seed": 0, "history": [(1, [0.5] * 4), (2, [0.9, 0.1, 0.2, 0.3])]}
    run |= {"spread": [9, 0.1, 0.1, 0.4], "near": [0, 0.5, 0.5, 0.8]}
    run["points"] = torch.zeros(4, 9, 2)
    cells = itertools.product(toy.LOSSES, toy.MIXED_FROM)
    return [run | {"loss": loss, "schedule": schedule} for loss, schedule in cells]


def test_the_toys_table_is_of_the_last_measurement_and_mostly_of_rare_labels(toy_results):
    for line in toy.table(toy_results).splitlines()[2:8]:
        assert line.endswith(" | 0.90 | 0.10 0.20 0.30 | **0.20** | 0.20 | 0.60 |")


def test_the_toys_curves_are_of_the_rare_labels(toy_results, tmp_path, figures_of):
    drawn = figures_of(toy.plots)
    toy.draw_toy(toy_results, tmp_path / "t.png")
    for axis in (drawn[0].axes[3], drawn[0].axes[7]):
        curves = [line.get_xydata().flatten().tolist() for line in axis.lines]
        assert curves == [pytest.approx([1, 0.5, 2, 0.2])] * 3


def test_toy_accuracy_counts_the_nearest_cluster():
    class Fixed(torch.nn.Module):  # label 0 and 1 go to cluster 1, 2 to 2, 3 to 0
        def forward(self, v):
            return T([[1.0, 1], [1, 1], [-1, -1], [-1, 1]])[v[:, :4].argmax(1)]

    assert label_accuracies(Fixed(), 2, 5)[0].tolist() == [0, 1, 1, 0]


# --- conditions, Figs. 5-8


def test_the_papers_example():
    """Hair colours are exclusive, and so are the sexes; Bald alone would need its own not-A."""
    attributes = ["Male", "Black hair", "Blond hair", "Bald", "Female"]
    exclusive = [["Black hair", "Blond hair", "Bald"], ["Male", "Female"]]
    assert condition_names(attributes, exclusive) == (
        ["Black hair", "Blond hair", "Bald", "Male", "Female"],
        [3, 2],
    )
    values = T(
        [[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 1, 0, 1, 0]]
    )  # blond man; woman of other hair; a slip
    assert to_conditions(values, attributes, exclusive).tolist() == [
        [0, 1, 0, 1, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
    ]


def test_a_single_attribute_gets_a_not():
    assert condition_names(["Male", "Smiling"]) == (
        ["Male", "not Male", "Smiling", "not Smiling"],
        [2, 2],
    )
    assert to_conditions(T([[1, 0], [0, 0]]), ["Male", "Smiling"]).tolist() == [
        [1, 0, 0, 1],
        [0, 1, 0, 1],
    ]
    with pytest.raises(ValueError, match="share no attribute"):
        condition_names(["Male"], [["Male", "Female"]])


def test_uniform_targets_have_one_condition_of_each_group():
    cnd = uniform_targets(3000, [3, 2], torch.Generator().manual_seed(0))
    assert (cnd[:, :3].sum(1) == 1).all() and (cnd[:, 3:].sum(1) == 1).all()
    assert torch.allclose(cnd.mean(0), T([1 / 3] * 3 + [1 / 2] * 2), atol=0.03)


def test_each_condition_once():
    assert each_condition([3, 2]).tolist() == [
        [1, 0, 0, 1, 0],
        [0, 1, 0, 1, 0],
        [0, 0, 1, 1, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]
    assert torch.equal(each_condition([10]), torch.eye(10))


def test_unbalanced_set_and_one_hot_conditions():
    data = load_images("synthetic", "none", size=16)
    unbalance(data, 40, 5)
    assert torch.bincount(data.labels).tolist() == [40] + [5] * 9 and len(data) == 85
    labels = data.labels
    names, groups = set_conditions(data)
    assert groups == [10] and len(names) == 10 and torch.equal(data.labels.argmax(1), labels)
    assert data.batch(0, 4, 0)[1].shape == (4, 10)
    with pytest.raises(UserError, match="has 51 images of class 2"):  # 512 = 10·51 + 2
        unbalance(load_images("synthetic", "none", size=16), 2, 52)
    data.labels = None
    with pytest.raises(UserError, match="no classes"):
        unbalance(data, 2, 1)


def celeba(root, n=12, size=20):
    """A tree as CelebA's: n images, of which every second is Male, every third Bald, the others
    Black_Hair.
    """
    from PIL import Image

    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    rows = [str(n), "Bald Black_Hair Male"]
    for i in range(n):
        Image.new("RGB", (size, size + 4), (20 * i, 0, 0)).save(folder / f"{i:06d}.jpg")
        bald, male = (1 if i % every == 0 else -1 for every in (3, 2))
        rows.append(f"{i:06d}.jpg  {bald} {-bald}  {male}")
    (root / "celeba" / "list_attr_celeba.txt").write_text("\n".join(rows) + "\n")
    (root / "celeba" / "list_eval_partition.txt").write_text(
        "".join(f"{i:06d}.jpg 0\n" for i in range(n))
    )


def test_celeba_attributes_train_sample_and_resume(tmp_path):
    celeba(tmp_path)
    data = load_images("celeba", tmp_path, size=16)
    assert set_conditions(data, ["Male", "Black_Hair+Bald"]) == (
        ["Black_Hair", "Bald", "Male", "not Male"],
        [2, 2],
    )
    assert data.labels[:4].tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    with pytest.raises(UserError, match="Grey_Hair: not in .*There are: Bald Black_Hair Male"):
        set_conditions(load_images("celeba", tmp_path, size=16), ["Grey_Hair"])
    with pytest.raises(UserError, match="each attribute once"):
        set_conditions(load_images("celeba", tmp_path, size=16), ["Bald+Male", "Male+Black_Hair"])
    run = tmp_path / "run"
    for loss in ("ca", "ac"):
        train.main(
            [
                "--smoke",
                "--dataset",
                "celeba",
                "--data-dir",
                str(tmp_path),
                "--targets",
                "data",
                "--attributes",
                "Male",
                "Black_Hair+Bald",
                "--loss",
                loss,
                "--steps",
                "2",
                "--out",
                str(run / loss),
            ]
        )
        cagan_eval.main(
            [
                "--ckpt",
                str(run / loss / "last.pt"),
                "--samples",
                "8",
                "--grid-out",
                str(run / "g.png"),
            ]
        )
    train.main(["--resume", str(run / "ca"), "--steps", "3"])


def test_attributes_are_measured_in_the_test_images_mix(tmp_path, monkeypatch, capsys):
    """Of 12 test images three contradict the joined group, three are male, six not; none is bald."""
    celeba(tmp_path, n=24)
    table, partition = (
        tmp_path / "celeba" / f"list_{name}.txt" for name in ("attr_celeba", "eval_partition")
    )
    rows = table.read_text().splitlines()[:14]
    kinds = 3 * ["-1 -1 1"] + 3 * ["-1 1 1"] + 6 * ["-1 1 -1"]
    rows += [f"{i:06d}.jpg {kind}" for i, kind in enumerate(kinds, 12)]
    table.write_text("\n".join(rows) + "\n")
    partition.write_text("".join(f"{i:06d}.jpg {2 * (i // 12)}\n" for i in range(24)))
    extractor = load_extractor("lenet", "synthetic")
    extractor.kind = "inception"
    monkeypatch.setattr(evaluate, "load_extractor", lambda *args, **more: extractor)
    asked, counted = [], []
    monkeypatch.setattr(
        cagan_eval,
        "sample",
        lambda G, cnd, *rest: asked.append(cnd) or metrics.sample(G, cnd, *rest),
    )
    score = evaluate.image_metrics
    monkeypatch.setattr(
        evaluate, "image_metrics", lambda real, *rest: counted.append(real[0]) or score(real, *rest)
    )
    where = ["--smoke", "--dataset", "celeba", "--data-dir", str(tmp_path), "--steps", "1"]
    for attributes, split in (
        (["Male", "Black_Hair+Bald"], "test_one_of_each_group"),
        (["Male"], "test"),
    ):
        run = str(tmp_path / split)
        train.main([*where, "--out", run, "--attributes", *attributes])
        capsys.readouterr()
        found = cagan_eval.main(["--ckpt", run, "--n", "36"])
        assert f"fid_lenet_random_36_{split}" in found
        assert ("9 of the 12 test images have one" in capsys.readouterr().err) == (split != "test")
    # Black_Hair, Bald, Male, not Male: of nine images four times each; Male, not Male: of twelve
    assert [cnd.sum(0).tolist() for cnd in asked] == [[36, 0, 12, 24], [18, 18]]
    assert torch.equal(counted[0], counted[1][3:])
    assert len({tuple(row) for row in asked[1][:12].tolist()}) == 2  # not in the files' order
    table.write_text(table.read_text().replace("-1 1 -1", "-1 -1 -1"))
    with pytest.raises(UserError, match="3 of the 12 test images .* scores need four"):
        cagan_eval.main(["--ckpt", str(tmp_path / "test_one_of_each_group"), "--n", "36"])


def test_a_batch_without_an_active_condition_trains(tmp_path):
    """WGAN-GP on faces of which one in four has one of the conditions, two a batch."""
    celeba(tmp_path)
    rows = (tmp_path / "celeba/list_attr_celeba.txt").read_text().splitlines()
    for i in range(2, 10):
        rows[i] = rows[i].split()[0] + " -1 -1 -1"
    (tmp_path / "celeba/list_attr_celeba.txt").write_text("\n".join(rows) + "\n\n")
    for targets in ("uniform", "data"):
        train.main(
            [
                "--smoke",
                "--dataset",
                "celeba",
                "--data-dir",
                str(tmp_path),
                "--attributes",
                "Black_Hair+Bald",
                "--adv",
                "wgan-gp",
                "--n-critic",
                "1",
                "--batch-size",
                "2",
                "--steps",
                "6",
                "--log-every",
                "1",
                "--targets",
                targets,
                "--out",
                str(tmp_path / targets),
            ]
        )
        log = read_log(tmp_path / targets / "log.jsonl")
        assert any(line["penalty"] == line["D_real"] == 0 for line in log) and any(
            line["penalty"] for line in log
        )


def test_a_condition_that_no_image_has_is_refused(tmp_path):
    celeba(tmp_path)
    path = tmp_path / "celeba/list_attr_celeba.txt"
    text = path.read_text()
    load = lambda: load_images("celeba", tmp_path, size=16)
    path.write_text(text.replace("  1 -1 ", " -1 -1 "))  # nobody is bald
    with pytest.raises(
        UserError, match="condition Bald: none of the 12 images of celeba .* --attributes"
    ):
        set_conditions(load(), ["Black_Hair+Bald"])
    path.write_text(text.replace("000003.jpg ", "000003.jpg x"))
    with pytest.raises(
        UserError, match="line 6: '000003.jpg x.*' is not a file name and 3 times 1 or -1"
    ):
        set_conditions(load(), ["Male"])
    shapes = load_images("synthetic", "none", size=16)
    shapes.labels[shapes.labels == 9] = 0  # the last class: still ten heads
    with pytest.raises(UserError, match="condition checkers: none of the 512"):
        set_conditions(shapes)


# --- networks and train.py's own rules


@pytest.mark.parametrize("size, channels", [(28, 1), (28, 3), (32, 1), (64, 3)])
def test_shapes(size, channels):
    G, D = Generator(10, 6, size, channels, 2, 1), Discriminator(11, size, channels, 2, 1, "batch")
    x = G(torch.randn(3, 6), torch.eye(10)[:3])
    assert x.shape == (3, channels, size, size) and x.abs().max() <= 1 and D(x).shape == (3, 11)


def test_parameter_counts_of_the_authors_networks():
    """Layer by layer: 3x3 convolutions without bias and 2 per channel of norm; the 1x1 one and D's
    linear have one.
    """
    conv = lambda a, b: 9 * a * b + 2 * b
    assert (
        count(Generator())
        == 4_075_713
        == (
            266 * 12544
            + 512
            + conv(256, 128)
            + 2 * conv(128, 128)
            + conv(128, 64)
            + 2 * conv(64, 64)
            + 65
        )
    )
    assert (
        count(Discriminator(10))
        == 1_971_658
        == (
            conv(1, 64)
            + conv(64, 128)
            + 2 * conv(128, 128)
            + conv(128, 256)
            + 2 * conv(256, 256)
            + 12544 * 10
            + 10
        )
    )
    assert count(Discriminator(11)) == 1_971_658 + 12544 + 1


def test_initial_weights_are_glorot_uniform_and_biases_zero():
    """Uniform within ±√(6 / (fan in + fan out)), of 3x3 kernels 9 times the channels."""
    torch.manual_seed(0)
    G, D = Generator(width=16), Discriminator(width=16)
    for net in (G, D):
        for layer in net.modules():
            if (
                isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))
                and layer.weight.numel() > 1000
            ):
                fans = sum(layer.weight.shape[:2]) * layer.weight[0, 0].numel()
                bound = math.sqrt(6 / fans)
                assert 0.95 * bound < layer.weight.abs().max() <= bound
                assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            if getattr(layer, "bias", None) is not None and not isinstance(
                layer, torch.nn.InstanceNorm2d
            ):
                assert not layer.bias.any()


def test_a_checkpoint_of_convolutions_with_bias_is_refused_in_one_line(tmp_path):
    train.main(["--smoke", "--steps", "1", "--out", str(tmp_path / "r")])
    saved = torch.load(tmp_path / "r/last.pt", weights_only=True)
    saved["state"]["G"]["net.5.bias"] = torch.zeros(4)
    torch.save(saved, tmp_path / "r/last.pt")
    for script, words in (
        (train, ["--resume", str(tmp_path / "r"), "--steps", "2"]),
        (cagan_eval, ["--ckpt", str(tmp_path / "r/last.pt"), "--n", "20"]),
    ):
        with pytest.raises(
            UserError, match="another version of it has saved it: net.5.bias"
        ) as error:
            script.main(words)
        assert "\n" not in str(error.value)


def test_norm_inner_spares_the_first_and_the_last_convolution_of_D():
    kinds = lambda inner: [
        type(m).__name__
        for m in Discriminator(1, 28, 1, 2, 1, "batch", inner).net
        if type(m).__name__ in ("Conv2d", "BatchNorm2d")
    ]
    C, B = "Conv2d", "BatchNorm2d"
    assert kinds(False) == [C, B, C, B, C, B] and kinds(True) == [C, C, B, C]


@pytest.mark.parametrize("size", [7, 4, 27, 34])
def test_sizes_that_do_not_halve_are_refused(size):
    with pytest.raises(ValueError, match="must be even, above 8"):
        Generator(size=size)


def test_defaults_are_the_papers():
    args = train.parse_args([])
    paper = dict(
        loss="ca",
        adv="lsgan",
        lambda_cls=0.1,
        norm="instance",
        z_dim=256,
        size=28,
        width=64,
        convs=3,
        lr=1e-5,
        beta1=0.9,
        beta2=0.999,
        batch_size=32,
        steps=100 * 60_000 // 32,
        n_critic=1,
        mix_from=None,
        mix_ramp=None,
    )
    assert {k: getattr(args, k) for k in paper} == paper


def test_presets():
    gp = train.parse_args(["--adv", "wgan-gp"])
    assert (gp.n_critic, gp.beta1, gp.beta2, gp.lr, gp.lambda_gp) == (5, 0.0, 0.9, 1e-4, 10.0)
    quick = train.parse_args(["--quick"])
    ours = dict(
        dataset="fashion-mnist", width=32, convs=1, norm="none", lr=1e-3, beta1=0.5, steps=6000
    )
    assert {k: getattr(quick, k) for k in ours} == ours


def test_build_hands_every_flag_of_the_networks_on():
    words = [
        "--size",
        "16",
        "--channels",
        "3",
        "--width",
        "2",
        "--z-dim",
        "5",
        "--convs",
        "2",
        "--norm",
        "batch",
        "--norm-inner",
    ]
    for loss, heads in (("ca", 4), ("ac", 5)):
        G, D = train.build(train.parse_args([*words, "--loss", loss]), [2, 2])
        assert [str(m) for m in G.modules() if not list(m.children())] == [
            str(m) for m in Generator(4, 5, 16, 3, 2, 2).modules() if not list(m.children())
        ]
        assert [str(m) for m in D.modules() if not list(m.children())] == [
            str(m)
            for m in Discriminator(heads, 16, 3, 2, 2, "batch", True).modules()
            if not list(m.children())
        ]


def shows_its_input(z, cnd):
    """G whose images are z and the condition."""
    return torch.cat([z, cnd], 1)


def test_samples_are_of_the_conditions_asked_for_and_fixed_by_the_seed():
    args = train.parse_args(["--z-dim", "3"])
    cnd = torch.eye(4).repeat(3, 1)
    draw = lambda **k: torch.cat(list(metrics.sample(shows_its_input, cnd, args, CPU, **k)))
    assert torch.equal(draw(batch_size=5)[:, 3:], cnd)
    assert torch.equal(draw(seed=1), draw(seed=1)) and not torch.equal(
        draw(seed=1)[:, :3], draw(seed=2)[:, :3]
    )


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_eval_samples_as_its_own_flag_says(tmp_path, monkeypatch, amp):
    train.main(["--smoke", "--amp", "bf16", "--out", str(tmp_path / "r")])
    seen = []

    def sample(G, cnd, args, *more):
        seen.append(args.amp)
        return metrics.sample(G, cnd, args, *more)

    monkeypatch.setattr(cagan_eval, "sample", sample)
    where = ["--ckpt", str(tmp_path / "r"), "--export", str(tmp_path / "new"), "--n", "20"]
    cagan_eval.main([*where, "--amp", amp])
    assert seen == [amp]


@pytest.mark.parametrize("conditions", [None, torch.eye(2)])
def test_eval_samples_with_its_seed_and_in_its_batches(monkeypatch, conditions):
    def stop(*words):
        raise InterruptedError(words[-2:])

    monkeypatch.setattr(cagan_eval, "sample", stop)
    trained = SimpleNamespace(data_dir="data")
    args = SimpleNamespace(n=8, seed=3, batch_size=5, split="test")
    with pytest.raises(InterruptedError) as asked:
        cagan_eval.measure(None, trained, [2], args, CPU, None, "lenet", conditions)
    assert asked.value.args == ((3, 5),)


def test_scores_ask_for_the_classes_in_turn():
    class Scores:
        class_moments = [None] * 4

        def collect(self, batches, n):
            return torch.cat(list(batches)), n

        def __call__(self, images, n, asked):
            return images[:, 3:].argmax(1).tolist(), n, asked.tolist()

    args = train.parse_args(["--z-dim", "3"])
    found = metrics.score(Scores(), shows_its_input, 6, args, CPU)
    assert found == ([0, 1, 2, 3, 0, 1], 6, [0, 1, 2, 3, 0, 1])
    with pytest.raises(UserError, match="10 classes need two images each"):
        train.main(["--smoke", "--fid-samples", "19", "--out", "/nonexistent/r"])


def test_the_grid_has_a_row_for_each_condition_and_a_z_for_each_column(tmp_path, grids_of):
    drawn = grids_of(train)
    train.main(
        [
            "--smoke",
            "--steps",
            "1",
            "--width",
            "4",
            "--sample-every",
            "1",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    args = train.parse_args(["--smoke", "--width", "4"])
    args.channels = 1
    G, _ = build(args, [10])
    G.load_state_dict(torch.load(tmp_path / "r/last.pt", weights_only=True)["state"]["G"])
    z = torch.randn(8, args.z_dim, generator=train.step_rng(args.seed, 0))
    for c in range(10):
        assert torch.allclose(drawn[0][8 * c : 8 * c + 8], G(z, torch.eye(10)[[c] * 8]), atol=1e-6)


def test_evals_grid_has_a_row_for_each_condition_and_a_z_for_each_column(grids_of):
    drawn = grids_of(cagan_eval.plots)
    args = train.parse_args(["--z-dim", "3"])
    cagan_eval.draw_samples(shows_its_input, args, list("abcd"), [4], 12, CPU, "x.png", 2)
    z, cnd = drawn[0].view(4, 3, 7).split([3, 4], 2)
    assert torch.equal(cnd, torch.eye(4)[:, None].expand(4, 3, 4))
    expected = torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(z, expected.expand_as(z))


def test_interpolation_goes_from_each_condition_to_the_next(grids_of):
    drawn = grids_of(cagan_eval.plots)
    args = train.parse_args(["--z-dim", "3"])
    cagan_eval.draw_interpolation(shows_its_input, args, list("abcd"), [4], CPU, "x.png")
    z, cnd = drawn[0].view(4, 9, 7).split([3, 4], 2)
    start = torch.eye(4)
    end = start.roll(-1, 0)
    assert torch.allclose(cnd[:, 0], start) and torch.allclose(cnd[:, 8], end)
    assert torch.allclose(cnd[:, 4], (start + end) / 2) and (z == z[0, 0]).all()


def test_dataset_auto_is_mnist_or_fashion_mnist(monkeypatch, capsys):
    there = {"mnist", "fashion-mnist"}

    def load(name, *args, **kwargs):
        if name not in there:
            raise UserError(f"can't get {name}\nmore")
        return name

    monkeypatch.setattr(train, "load_images", load)
    for expected in ("mnist", "fashion-mnist"):
        args = train.parse_args([])
        assert train.load_data(args) == train.load_data(args, "test") == args.dataset == expected
        there.discard("mnist")
    err = capsys.readouterr().err
    assert err == "data: FashionMNIST instead of MNIST: can't get mnist\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--mix-from", "1", "--mix-ramp", "0.01"], "two schedules"),
        (["--adv", "wgan-gp", "--norm", "batch"], "no sample a gradient"),
        (["--unbalanced", "5", "5", "--attributes", "Male"], "by class"),
        (["--fid-samples", "100", "--attributes", "Male"], "fid-samples 0"),
        (["--mix-ramp", "-0.5"], "at least 0"),
        (["--unbalanced", "-5", "5"], "--unbalanced -5: must be at least 1"),
        (["--unbalanced", "0", "0"], "--unbalanced 0: must be at least 1"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        train.parse_args(words)


def test_a_step_moves_each_network_by_its_own_loss(tmp_path, monkeypatch, watch_steps):
    """Gradients in the loop of train.py itself, against ones computed apart: L_d's for D, L_g's for
    G, one forward.
    """
    seen, nets = {}, {}
    monkeypatch.setattr(train, "build", lambda *a: nets.setdefault("both", build(*a)))

    def look(optimiser):
        params = optimiser.param_groups[0]["params"]
        seen["G" if params[0] is next(nets["both"][0].parameters()) else "D"] = [
            p.grad.clone() for p in params
        ]

    watch_steps(train, "fused_adam", look)
    words = ["--smoke", "--steps", "1", "--width", "4", "--out", str(tmp_path / "r")]
    train.main(words)
    args = train.parse_args(words)
    args.channels = 1
    torch.manual_seed(args.seed)
    G, D = build(args, [10])  # the run's weights before its step
    data = load_images("synthetic", "none", size=args.size)
    set_conditions(data)
    x, cnd = data.batch(0, 8, 0)
    rng = train.step_rng(args.seed, 1)
    z, _ = (torch.randn(8, args.z_dim, generator=rng) for _ in range(2))
    cnd_fake = uniform_targets(8, [10], rng)
    L_d = ((D(x) - 1) ** 2 * cnd).sum() / 8 + (D(G(z, cnd_fake).detach()) ** 2 * cnd_fake).sum() / 8
    L_g = ((D(G(z, cnd_fake)) - 1) ** 2 * cnd_fake).sum() / 8
    for found, expected in (
        (seen["D"], torch.autograd.grad(L_d, list(D.parameters()))),
        (seen["G"], torch.autograd.grad(L_g, list(G.parameters()))),
    ):
        for a, b in zip(found, expected):
            assert torch.allclose(a, b, atol=1e-6, rtol=1e-3)


def test_D_steps_n_critic_times_for_one_of_G_and_each_gradient_is_of_one_step(
    tmp_path, monkeypatch, watch_steps
):
    """Adam's learning rate is 0 and the batch always the same: then so are L_d's gradients, unless
    they add up.
    """
    seen, nets = {"G": [], "D": []}, []
    monkeypatch.setattr(train, "build", lambda *a: nets.extend(build(*a)) or tuple(nets))
    monkeypatch.setattr(train, "step_rng", lambda seed, step: step_rng(seed, 1))
    batch_of = ImageSet.batch
    monkeypatch.setattr(ImageSet, "batch", lambda data, step, *rest: batch_of(data, 0, *rest))

    def look(optimiser):
        params = optimiser.param_groups[0]["params"]
        seen["G" if params[0] is next(nets[0].parameters()) else "D"].append(
            torch.cat([p.grad.flatten() for p in params])
        )

    watch_steps(train, "fused_adam", look)
    train.main(
        [
            "--smoke",
            "--steps",
            "4",
            "--width",
            "4",
            "--n-critic",
            "2",
            "--lr",
            "0",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert len(seen["D"]) == 4 and len(seen["G"]) == 2
    for grads in seen.values():
        assert grads[0].abs().max() > 1e-3
        assert all(torch.allclose(grad, grads[0], atol=1e-6) for grad in grads)


def test_both_optimisers_have_the_flags_rates(tmp_path):
    train.main(
        [
            "--smoke",
            "--steps",
            "1",
            "--width",
            "4",
            "--lr",
            "0.3",
            "--beta1",
            "0.2",
            "--beta2",
            "0.7",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    state = torch.load(tmp_path / "r/last.pt", weights_only=True)["state"]
    for opt in ("opt_G", "opt_D"):
        group = state[opt]["param_groups"][0]
        assert (group["lr"], *group["betas"]) == (0.3, 0.2, 0.7)


@pytest.mark.parametrize("targets, share", [("uniform", 0.1), ("data", 0.9)])
def test_G_is_asked_for_conditions_evenly_or_as_in_the_data(tmp_path, monkeypatch, targets, share):
    """81 images of class 0 and one of each other."""
    asked = []
    monkeypatch.setattr(
        train,
        "ca_generator_loss",
        lambda fake, cnd, adv: (asked.append(cnd), ca_generator_loss(fake, cnd, adv))[1],
    )
    monkeypatch.setattr(
        train,
        "unbalance",
        lambda data, first, rest: setattr(
            data, "labels", (torch.arange(len(data)) % 90 - 80).clamp(min=0)
        ),
    )
    train.main(
        [
            "--smoke",
            "--steps",
            "6",
            "--width",
            "4",
            "--batch-size",
            "64",
            "--targets",
            targets,
            "--unbalanced",
            "81",
            "1",
            "--sample-every",
            "99",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert torch.cat(asked)[:, 0].mean().item() == pytest.approx(share, abs=0.05)


def test_the_penalty_is_weighted_and_of_the_real_images_conditions(tmp_path, monkeypatch):
    """Its generated images were asked for what the real ones have; the log, and L_d, have λ times
    it.
    """
    found = []
    forward = Generator.forward

    def remember(G, z, cnd):
        images = forward(G, z, cnd)
        found.append((images, cnd))
        return images

    monkeypatch.setattr(Generator, "forward", remember)
    monkeypatch.setattr(
        train,
        "gradient_penalty",
        lambda D, x, fake, epsilon, active: (found.append((fake, active)), D(x).sum() * 0 + 2)[1],
    )
    metrics = train.main(
        [
            "--smoke",
            "--steps",
            "1",
            "--adv",
            "wgan-gp",
            "--lambda-gp",
            "3",
            "--width",
            "4",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    (_, asked), (same, has), (fake, active) = found[:3]
    assert fake is same and torch.equal(active, has) and not torch.equal(asked, has)
    assert metrics["penalty"] == 6
    assert metrics["L_d"] == pytest.approx(metrics["D_fake"] - metrics["D_real"] + 6, abs=1e-4)


def test_the_loop_mixes_from_the_epoch_asked_for(tmp_path, monkeypatch):
    """85 images in batches of 8: the second epoch begins with step 12."""
    shares = []
    monkeypatch.setattr(
        train, "discriminate", lambda *words: (shares.append(words[3]), discriminate(*words))[1]
    )
    train.main(
        [
            "--smoke",
            "--unbalanced",
            "40",
            "5",
            "--norm",
            "batch",
            "--mix-from",
            "1",
            "--steps",
            "13",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert shares == [0.0] * 11 + [0.5] * 2


@pytest.mark.parametrize(
    "words",
    [
        ["--loss", "ac", "--adv", "minimax"],
        ["--loss", "modified_ac", "--adv", "hinge"],
        ["--adv", "wgan-gp"],
        ["--loss", "ac", "--adv", "wgan-gp"],
        ["--unbalanced", "40", "5", "--norm", "batch", "--mix-from", "1"],
    ],
)
def test_every_loss_trains_and_resumes_exactly(words, tmp_path):
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    train.main(["--smoke", *words, "--steps", "14", "--out", whole])
    train.main(["--smoke", *words, "--steps", "9", "--out", parts])
    train.main(["--resume", parts, "--steps", "14"])
    a, b = (torch.load(f"{path}/last.pt", weights_only=True)["state"] for path in (whole, parts))
    for net in ("G", "D"):
        assert all(torch.equal(a[net][name], b[net][name]) for name in a[net])


# --- metrics and eval.py


def test_conditional_scores_see_what_was_asked_for(tmp_path, capsys):
    """The real images themselves have FID 0 in both forms; asked for wrongly, only the per-class
    form sees it.
    """
    data = load_images("synthetic", "none", "test", 16)
    scores = ConditionalScores(data, torch.device("cpu"), tmp_path)
    assert "warning" not in capsys.readouterr().err  # classes of 51 and 52 are nearly equal
    features, logits = scores.real
    right = scores(features, logits, data.labels)
    wrong = scores(features, logits, (data.labels + 1) % 10)
    tag = "lenet_random_512"
    assert [s[f"fid_{tag}_test"] for s in (right, wrong)] == pytest.approx([0, 0], abs=1e-3)
    assert right[f"fid_per_class_{tag}_test"] == pytest.approx(0, abs=1e-3)
    assert wrong[f"fid_per_class_{tag}_test"] > 0.1
    asked, seen = T([0, 0, 1, 2] * 20), torch.eye(10)[T([0, 1, 1, 3] * 20)]
    details = scores.details(seen, asked.long())
    assert details["conditional_accuracies_lenet_random_80"][:3] == [0.5, 1.0, 0.0]
    assert details["class_counts_lenet_random_80"][:4] == [20, 40, 0, 20]
    asked, seen = torch.arange(80) % 10, torch.eye(10)[torch.arange(80) % 10 // 3]  # 0001112223
    assert scores(torch.rand(80, 64), seen, asked)["conditional_accuracy_lenet_random_80"] == 0.1


def test_figures_train_draw_and_go_on(here, capsys, monkeypatch):
    unbalanced = ["--unbalanced", "40", "5", "--norm", "batch", "--steps", "12"]
    monkeypatch.setattr(
        reproduce,
        "figure_configs",
        lambda reduced: {
            "12": {"without": ["--loss", "modified_ac"]},
            "mixed": {
                "CA-GAN, not mixed": unbalanced,
                "CA-GAN, mixed": [*unbalanced, "--mix-from", "1"],
            },
        },
    )
    words = [
        "--figures",
        "12",
        "mixed",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--n",
        "60",
        "--reduced",
        "--out",
        "F",
        "--train-flags",
        "--smoke --fid-samples 60 --dataset synthetic --amp off --width 4 --steps 12 "
        "--sample-every 6 --save-every 12 --batch-size 8 --z-dim 4 --size 16",
    ]
    tables = reproduce.main(words)
    assert [row["runs"] for row in tables["12"] + tables["mixed"]] == [1, 1, 1]
    for name in (
        "figure_12.png",
        "figure_12.md",
        "figure_mixed.json",
        "figure_mixed_samples.png",
        "figure_mixed_classes.png",
        "figure_overview.png",
    ):
        assert (here / "F" / name).stat().st_size > 200
    log = [
        line["share"]
        for line in read_log(
            here / "F" / f"run-{'-'.join(unbalanced)}-mix-from-1-0".replace("--", "") / "log.jsonl"
        )
    ]
    assert log[0] == 0 and log[-1] == 0.5, "mixed after the first epoch: 85 images, batch 8"
    capsys.readouterr()
    reproduce.main(words)
    assert "3 of 3 runs are there" in capsys.readouterr().err
    check_tables_outlive_runs(
        "F", ["figure_12.md", "figure_mixed.md", "figure_mixed.json"], lambda: reproduce.main(words)
    )


def test_figures_of_more_seeds_keep_the_toy_of_fewer(here, monkeypatch):
    schedule = {"never mixed": 1.0}
    monkeypatch.setattr(toy, "MIXED_FROM", schedule)
    monkeypatch.setattr(toy, "draw_toy", lambda *_: None)
    train_toy = toy.train_toy
    trained = []

    def short(loss, schedule, seed, steps, norm):
        trained.append(seed)
        return train_toy(loss, schedule, seed, 2, norm)

    monkeypatch.setattr(toy, "train_toy", short)
    for seeds in ("1", "2", "1"):  # the last one is there
        reproduce.main(["--figures", "toy", "--seeds", seeds, "--out", "F"])
    assert trained == [0, 0, 0, 1, 0, 1]
    runs = [json.loads((here / f"F/toy-{n}seeds/toy.json").read_text())["runs"] for n in (1, 2)]
    assert [len(found) for found in runs] == [2, 4]


def test_the_papers_size_is_on_mnist(here, monkeypatch):
    seen = []
    monkeypatch.setattr(reproduce, "sweep", lambda *rest: seen.append(rest[-1]) or [])
    with pytest.raises(UserError, match="no run of figure 14"):
        reproduce.main(["--figures", "14", "--out", "F"])
    assert train.parse_args(seen[0]).dataset == "mnist"


def test_a_figures_numbers_and_table_by_hand(tmp_path):
    """Two seeds, four measured lines: half way is the second; lines without scores don't count."""
    results = []
    for seed in (0, 1):
        lines = [{"step": 5, "L_d": 1.0}]
        for i in range(1, 5):
            fids = {"fid_lenet_60_test": 1.0, "fid_per_class_lenet_60_test": 10.0 * i + seed}
            lines.append({"step": 10 * i, **fids})
        metrics = {
            "fid_lenet_60_test": 2.0,
            "fid_per_class_lenet_60_test": 3.0 + 2 * seed,
            "conditional_accuracy_lenet_60": 0.5,
            "conditional_accuracies_lenet_60": [1.0, 0.2, 0.4],
            "confusion_lenet_60": [[1]],
        }
        write_log(tmp_path / f"run-{seed}", lines)
        results.append({"name": f"run-{seed}", "metrics": metrics})
    row = reproduce.numbers("CA-GAN", results, tmp_path)
    assert (row["runs"], row["half_steps"], row["fid_per_class_half"]) == (2, 20, [20.0, 21.0])
    assert row["rare_accuracy"] == pytest.approx([0.3, 0.3]) and row["fid_per_class"] == [3, 5]
    assert all("confusion_lenet_60" not in result["metrics"] for result in row["results"])
    stopped = {"step": 25, "fid_lenet_60_test": 1.0, "fid_per_class_lenet_60_test": 99.0}
    lines.insert(3, stopped)  # between 20 and 30, of seed 1, which then went on
    write_log(tmp_path / "run-1", lines)
    assert reproduce.numbers("CA-GAN", results, tmp_path) == row
    again = reproduce.numbers("a run is gone", [{**results[0], "name": "gone"}, *results], tmp_path)
    assert again["half_steps"] == 20 and again["curves"] == row["curves"]
    assert math.isnan(again["fid_per_class_half"][0]) and again["fid_per_class_half"][1:] == [
        20,
        21,
    ]
    text = reproduce.table("13", [row])
    assert "over 2 seeds, fid_per_class_lenet_60_test, fid_lenet_60_test, conditional_acc" in text
    assert "| CA-GAN | 20.5 ± 0.707 | 4 ± 1.41 | 2 ± 0 | 0.5 ± 0 | 0.3 ± 0 |" in text


def test_each_panel_of_scores_has_its_own(tmp_path, figures_of):
    drawn = figures_of(reproduce.plots)
    curves = {score: [[i, i + 1.0], [i, i + 2.0]] for i, score in enumerate(reproduce.SCORES)}
    row = {"label": "a", "runs": 2, "steps": [5, 10], "curves": curves}
    reproduce.draw_scores("12", [row], tmp_path)
    for i, axis in enumerate(drawn[0].axes):
        assert axis.lines[0].get_xydata().tolist() == [[5, i], [10, i + 1.5]]


def test_each_panel_of_the_overview_has_its_own_score(tmp_path, figures_of):
    """Dots of the runs that have it, and their mean."""
    drawn = figures_of(reproduce.plots)
    row = {"label": "a", "fid_per_class_half": [1.0, math.nan], "fid_per_class": [2.0, 4.0]}
    row["conditional_accuracy"] = [0.5, 0.7]
    reproduce.draw_overview({"12": [row]}, tmp_path / "o.png")
    for axis, dots in zip(drawn[0].axes, ([1], [2, 4], [0.5, 0.7]), strict=True):
        assert [line.get_xdata().tolist() for line in axis.lines] == [dots, [sum(dots) / len(dots)]]


def test_each_row_of_mixed_samples_is_of_its_run(tmp_path, monkeypatch, grids_of):
    """G of each run is its seed, and so are its images."""
    drawn = grids_of(reproduce.plots)
    checkpoint = {"state": {"groups": [2]}}
    monkeypatch.setattr(
        reproduce, "load", lambda path, _: (int(path.parent.name), None, checkpoint)
    )
    monkeypatch.setattr(
        reproduce, "sample", lambda G, cnd, *_: [torch.full((len(cnd), 1, 4, 4), float(G))]
    )
    runs = {"CA-GAN": [{"name": str(seed), "seed": seed} for seed in (0, 1)]}
    reproduce.draw_mixed_samples(runs, ["a", "b"], tmp_path, CPU)
    assert drawn[0][:, 0, 0, 0].tolist() == [0, 0, 1, 1]


def test_bars_of_classes_are_means_over_runs_in_per_cent_of_the_samples():
    runs = [
        {"class_counts_lenet_8": counts, "conditional_accuracies_lenet_8": accuracies}
        for counts, accuracies in (([6, 2], [1.0, 0.5]), ([4, 4], [0.5, 0.5]))
    ]
    figure, axis = cagan_eval.plots.plt.subplots()
    cagan_eval.draw_classes(axis, runs, ["a", "b"])
    cagan_eval.plots.plt.close(figure)
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert heights == [[62.5, 37.5], [37.5, 25.0]]


# --- do generated images help a classifier?


def real_and_asked():
    """Seven images of class 0, two of 1, three of 2, and what G is asked for to fill them up."""
    return T([1, 0, 2, 0, 0, 1, 0, 2, 0, 0, 2, 0]), T([1, 1, 2, 1, 2, 1, 2, 2, 1])


def test_each_arms_places_by_hand():
    """Real images have places 0 to 11, generated ones 12 to 20."""
    places = classifier.training_places(*real_and_asked())
    common = [1, 3, 4, 6, 8, 9, 11]
    assert places["as it is"].tolist() == list(range(12))
    repeated = [*common, 0, 5, 0, 5, 0, 5, 0, 2, 7, 10, 2, 7, 10, 2]
    assert places["oversampled"].tolist() == repeated
    assert places["oversampled, flips and shifts"].tolist() == repeated
    filled = [*common, 0, 5, 12, 13, 15, 17, 20, 2, 7, 10, 14, 16, 18, 19]
    assert places["filled up with generated"].tolist() == filled
    half = [*common, 0, 5, 0, 5, 12, 13, 15, 2, 7, 10, 2, 14, 16, 18]
    assert places["half oversampled, half generated"].tolist() == half
    assert places["half generated, flips and shifts"].tolist() == half
    labels = torch.cat(real_and_asked())
    for arm, found in places.items():
        counts = [7, 2, 3] if arm == "as it is" else [7, 7, 7]
        assert labels[found].bincount().tolist() == counts


def unbalanced_run(**more):
    flags = "--smoke --unbalanced 40 6 --size 16 --z-dim 3 --amp off"
    args = train.parse_args(flags.split())
    return argparse.Namespace(**vars(args) | {"channels": 1} | more)


def shows_what_is_asked(z, cnd):
    """A G whose images of class c have the one grey level 10 + 20c everywhere."""
    level = (10 + 20 * cnd.argmax(1)) / 127.5 - 1
    return level[:, None, None, None].expand(-1, 1, 16, 16)


def test_every_arm_has_the_right_labels_and_equally_many_steps(monkeypatch):
    steps, sets = [], {}
    step = torch.optim.AdamW.step
    trained = unbalanced_run(seed=5)

    def one_more_step(self, *args, **kwargs):
        steps[-1] += 1
        return step(self, *args, **kwargs)

    real_train = classifier.train_classifier

    def watched(data, augmented, seed, *more):
        steps.append(0)
        sets[len(steps)] = (data, augmented, seed)
        return real_train(data, augmented, seed, *more)

    monkeypatch.setattr(torch.optim.AdamW, "step", one_more_step)

    def on_test_images(net, data, device):
        assert data.split == "test" and len(data) == 512
        return real_recalls(net, data, device)

    real_recalls = classifier.recalls
    monkeypatch.setattr(classifier, "recalls", on_test_images)
    monkeypatch.setattr(classifier, "train_classifier", watched)
    monkeypatch.setattr(classifier, "STEPS", 3)
    found = classifier.measure(shows_what_is_asked, trained, torch.device("cpu"))
    assert list(found) == list(classifier.training_places(*real_and_asked()))
    assert steps == [3] * 6
    assert all(len(each) == 10 and 0 <= min(each) <= max(each) <= 1 for each in found.values())
    assert [augmented for _, augmented, _ in sets.values()] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert {seed for _, _, seed in sets.values()} == {5}
    real = load_images("synthetic", None, size=16)
    label_of = {image.numpy().tobytes(): label for image, label in zip(real.images, real.labels)}
    generated = []
    for data, _, _ in sets.values():
        levels = data.images.flatten(1)
        made = (levels == levels[:, :1]).all(1)
        assert torch.equal(levels[made, 0], 10 + 20 * data.labels[made].byte())
        for image, label in zip(data.images[~made], data.labels[~made]):
            assert label_of[image.numpy().tobytes()] == label
        generated.append(int(made.sum()))
    assert generated == [0, 0, 0, 9 * 34, 9 * 20, 9 * 20]


def test_a_classifier_learns_repeatably_whatever_was_drawn_before(monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 60)
    data, test = (load_images("synthetic", None, split, size=16) for split in ("train", "test"))
    nets = []
    for _ in range(2):
        torch.rand(3)
        nets.append(classifier.train_classifier(data, False, 1, torch.device("cpu")))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters()))
    seen = classifier.recalls(nets[0], test, "cpu")
    assert sum(seen) / 10 == pytest.approx(lenet_accuracy(nets[0], test), abs=0.01)
    assert sum(seen) / 10 > 0.5
    other = classifier.train_classifier(data, True, 1, torch.device("cpu"))
    assert not torch.equal(other.features.weight, nets[0].features.weight)


def test_recalls_by_hand():
    """Of class 0 half of the images are seen as such, of class 1 all, of class 2 none."""
    images = T([0, 9, 1, 1, 0]).byte().view(5, 1, 1, 1).expand(-1, 1, 4, 4)
    names = ["a", "b", "c"]
    data = ImageSet("x", "test", 4, 1, names, images=images, labels=T([0, 0, 1, 1, 2]))
    net = lambda x: (None, torch.eye(10)[((x[:, 0, 0, 0] + 1) * 127.5).round().long()])
    assert classifier.recalls(net, data, "cpu") == [0.5, 1.0, 0.0]


def test_images_are_mirrored_and_moved_by_two_pixels_at_most():
    image = torch.full((1, 1, 9, 9), -1.0)
    image[0, 0, 4, 4], image[0, 0, 4, 5] = 1.0, 0.5
    moved = classifier.flipped_and_shifted(image.repeat(500, 1, 1, 1), torch.Generator())
    rows, columns = ((moved == 1).nonzero()[:, k] for k in (2, 3))
    assert rows.unique().tolist() == columns.unique().tolist() == [2, 3, 4, 5, 6]
    right = (moved == 0.5).nonzero()[:, 3] > columns
    assert 200 < right.sum() < 300


def test_the_classifiers_numbers_and_table_by_hand():
    results = []
    for seed in (0, 1):
        recalls = {"oversampled": [0.9, 0.5, 0.7], "filled": [0.6, 0.9 + seed / 10, 0.5]}
        results.append({"seed": seed, "metrics": {"classifier": recalls}})
    rows = classifier.numbers("5 and 2", results)
    assert [row["arm"] for row in rows] == ["oversampled", "filled"]
    assert rows[1]["accuracy"] == pytest.approx([2 / 3, 2.1 / 3])
    assert rows[1]["rare_recall"] == pytest.approx([0.7, 0.75])
    assert rows[1]["common_recall"] == [0.6, 0.6] and rows[0]["gain"] == [0, 0]
    assert rows[1]["gain"] == pytest.approx([0.1, 0.15])
    text = classifier.table(rows)
    assert "mean ± sd over 2 seeds" in text
    assert "| 5 and 2 | filled | 68.3 ± 2.4 | 72.5 ± 3.5 | 60.0 ± 0.0 | 12.5 ± 3.5 |" in text


def test_generated_images_of_the_pool_follow_the_seed():
    def G(z, cnd):
        return z[:, :1].tanh().view(-1, 1, 1, 1).expand(-1, 1, 16, 16)

    data = load_images("synthetic", "none", size=16)
    pool, _ = classifier.pool_with_generated(G, data, T([0, 1, 2]), unbalanced_run(seed=5), CPU)
    z = torch.randn(3, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(pool[len(data) :], grey_levels(G(z, None)).byte())


def test_each_panel_of_classifiers_has_its_score_in_per_cent(tmp_path, figures_of):
    drawn = figures_of(classifier.plots)
    row = {"label": "5 and 2", "arm": "oversampled", "rare_recall": [0.25], "accuracy": [0.5]}
    classifier.draw([row], tmp_path / "c.png")
    assert [list(axis.lines[0].get_xdata()) for axis in drawn[0].axes] == [[25], [50]]


@pytest.mark.parametrize("reduced", [True, False])
def test_what_each_curve_is_trained_with(reduced):
    """Flags come after those of every run, as in a sweep."""
    shared = reproduce.REDUCED.format(amp="off").split() if reduced else reproduce.FULL
    configs = {
        name: {label: train.parse_args([*shared, *flags]) for label, flags in config.items()}
        for name, config in reproduce.figure_configs(reduced).items()
    }
    assert list(configs) == list(reproduce.TITLES)
    assert [args.lambda_cls for args in configs["13"].values()] == [0.01, 0.1, 1.0, 0.1]
    assert configs["13"]["CA-GAN (no λ_cls)"].loss == "ca"
    ratio = configs["14"]["CA-GAN"].lr / configs["13"]["CA-GAN (no λ_cls)"].lr
    assert ratio == pytest.approx(0.3)
    losses = list(configs["losses"].values())
    assert {args.loss for args in losses} == {"ca"}
    assert [args.adv for args in losses] == ["lsgan", "vanilla", "hinge", "wgan-gp"]
    assert [args.n_critic for args in losses] == [1, 1, 1, 1 if reduced else 5]
    weights = configs["weights"]
    assert {args.loss for args in weights.values()} == {"modified_ac"}
    assert [args.adv for args in weights.values()] == [args.adv for args in losses for _ in (0, 1)]
    assert [args.lambda_cls for args in weights.values()] == [0.1, 1.0] * 4
    networks = configs["networks"]
    assert [args.loss for args in networks.values()] == ["ca", "modified_ac"]
    paper = train.parse_args([])
    for args in networks.values():  # the paper's, but for what --reduced says
        for name in ("convs", "norm", "norm_inner", "z_dim", "beta1", "adv", "lambda_cls"):
            assert getattr(args, name) == getattr(paper, name), name
        assert args.steps * args.lr == pytest.approx(paper.steps * paper.lr)
    for label, args in configs["mixed"].items():
        epochs = args.steps / 312  # of 10,000 images in batches of 32
        assert (args.norm, args.unbalanced) == ("batch", [5500, 500])
        late = None if "not mixed" in label else pytest.approx(epochs * 2 / 3)
        assert args.mix_from == late


def test_the_classifiers_sets_are_mixed_for_the_last_third():
    for reduced, lates in ((True, [8, 13]), (False, [100, 168])):
        for flags, rest, late in zip(
            reproduce.classifier_configs(reduced).values(), (500, 50), lates
        ):
            args = train.parse_args(flags)
            assert (args.unbalanced, args.norm) == ([5500, rest], "batch")
            assert (args.mix_from, args.norm_inner) == (late, reduced)
            epochs = args.steps * 32 / (5500 + 9 * rest)
            assert late / epochs == pytest.approx(2 / 3, abs=0.05)


def test_the_figure_of_classifiers_is_drawn_and_goes_on(here, capsys, monkeypatch):
    small = ["--unbalanced", "40", "5", "--norm", "batch", "--steps", "12", "--mix-from", "1"]
    monkeypatch.setattr(reproduce, "classifier_configs", lambda reduced: {"40 and 5": small})
    monkeypatch.setattr(classifier, "STEPS", 2)
    words = "--figures classifier --reduced --seeds 2 --jobs 1 --n 60 --out F --train-flags".split()
    words.append("--smoke --dataset synthetic --amp off --fid-samples 0 --z-dim 4")
    rows = reproduce.main(words)["classifier"]
    assert len(rows) == 6 and all(len(row["accuracy"]) == 2 for row in rows)
    report = json.loads((here / "F/figure_classifier.json").read_text())
    assert report["rows"] == rows and [r["seed"] for r in report["results"]] == [0, 1]
    assert (here / "F/figure_classifier.png").stat().st_size > 200
    assert (
        "| 40 and 5 | filled up with generated |" in (here / "F/figure_classifier.md").read_text()
    )
    capsys.readouterr()
    monkeypatch.setattr(classifier, "measure", lambda *args: pytest.fail("measured twice"))
    reproduce.main(words)
    assert "2 of 2 runs are there" in capsys.readouterr().err
