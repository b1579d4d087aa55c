"""EPiC-GAN's networks against its equations jet by jet, without masks, and --model epic from training to ONNX."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.errors import UserError
from common.masking import lengths_to_mask
from common.runs import load_checkpoint
from mdma import epic, features, train
from mdma import eval as mdma_eval
from mdma.epic import Discriminator, EPiCLayer, Generator
from mdma.features import sample_jets
from tests.helpers import smoke_run
from tests.test_onnx import assert_same
from tests.test_onnx import run as run_onnx

N = 12
LENGTHS = torch.tensor([5, 1, 12, 7, 3, 9])
MASK = lengths_to_mask(LENGTHS, N)
ROWS = {Generator: 4, Discriminator: 0}  # of noise, before the particles'
CPU = torch.device("cpu")


def build(network, dtype=torch.float32):
    """With biases and gains off their initial values, so that every term counts."""
    torch.manual_seed(0)
    net = network()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net.to(dtype)


def inputs(network, rows=N, seed=0, dtype=torch.float32):
    """Noise of a generator, or particles of a discriminator."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(len(MASK), ROWS[network] + rows, 3, generator=rng).to(dtype)


def output(net, x, mask):
    """G's particles or D's score."""
    out = net(x, mask)
    return out[0] if isinstance(out, tuple) else out


def weight(layer):
    """γ v / ‖v‖ by row."""
    gain, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    return gain * v / v.square().sum(1, keepdim=True).sqrt()


def fc(layer, x):
    return x @ weight(layer).T + layer.bias


def lrelu(x):
    return torch.where(x > 0, x, 0.01 * x)


def mean_and_sum(p):
    return torch.cat([p.mean(0), p.sum(0)])


# --- one jet of n particles, p (n, 128) and g (10,), as equations and authors' code have it


def layer_by_hand(layer, p, g):
    g = lrelu(fc(layer.global_2, lrelu(fc(layer.global_1, torch.cat([mean_and_sum(p), g])))) + g)
    both = torch.cat([p, g.expand(len(p), -1)], dim=1)
    return lrelu(fc(layer.local_2, lrelu(fc(layer.local_1, both))) + p), g


def generator_by_hand(G, z_g, z_p):
    p = p_in = lrelu(fc(G.local_in, z_p))
    g = g_in = lrelu(fc(G.global_in_2, lrelu(fc(G.global_in_1, z_g))))
    for layer in G.layers:
        p, g = layer_by_hand(layer, p, g)
        p, g = p + p_in, g + g_in
    return fc(G.local_out, p)


def discriminator_by_hand(D, x):
    p = lrelu(fc(D.local_in_1, x))
    p = lrelu(fc(D.local_in_2, p) + p)
    g = lrelu(fc(D.global_in_2, lrelu(fc(D.global_in_1, mean_and_sum(p)))))
    for layer in D.layers:
        p, g = layer_by_hand(layer, p, g)
    h = lrelu(fc(D.out_1, torch.cat([mean_and_sum(p), g])))
    h = lrelu(fc(D.out_2, h) + h)
    return fc(D.out_3, h)


# --- networks


def test_parameter_counts_are_the_published_ones():
    """What the authors' notebook prints, and a sum over the layers of their models.py: weights, gains, biases."""

    def fc(i, o):
        return i * o + 2 * o

    epic_layer = fc(2 * 128 + 10, 128) + fc(128, 10) + fc(128 + 10, 128) + fc(128, 128)
    G = fc(3, 128) + fc(10, 128) + fc(128, 10) + 6 * epic_layer + fc(128, 3)
    D = fc(3, 128) + fc(128, 128) + fc(256, 128) + fc(128, 10) + 3 * epic_layer
    D += fc(266, 128) + fc(128, 128) + fc(128, 1)
    made = [sum(p.numel() for p in net().parameters()) for net in (Generator, Discriminator)]
    assert made == [G, D] == [424_850, 313_170]


def test_layer_by_hand():
    layer = build(EPiCLayer, torch.float64)
    p, g = torch.randn(len(MASK), N, 128).double(), torch.randn(len(MASK), 10).double()
    new_p, new_g = layer(p, g, MASK)
    for i, n in enumerate(LENGTHS):
        made = new_p[i, :n], new_g[i]
        torch.testing.assert_close(made, layer_by_hand(layer, p[i, :n], g[i]), rtol=0, atol=1e-12)


def test_generator_by_hand():
    """At a standard deviation of 5, of jets of one n each; g's noise is 10 of the first 12 numbers."""
    G, z = build(Generator, torch.float64), inputs(Generator, dtype=torch.float64)
    x = G(z, MASK)
    assert x.shape == (len(MASK), N, 3) and not x[~MASK].any() and x[MASK].all()
    for i, n in enumerate(LENGTHS):
        z_g = torch.cat([z[i, 0], z[i, 1], z[i, 2], z[i, 3, :1]])
        expected = generator_by_hand(G, z_g, z[i, 4 : 4 + n])
        torch.testing.assert_close(5 * x[i, :n], expected, rtol=0, atol=1e-12)


def test_discriminator_by_hand():
    D, x = build(Discriminator, torch.float64), inputs(Discriminator, dtype=torch.float64)
    score, mean_field = D(x, MASK)
    assert score.shape == (len(MASK),) and mean_field.shape == (len(MASK), 1)
    assert not mean_field.any()
    for i, n in enumerate(LENGTHS):
        expected = discriminator_by_hand(D, 5 * x[i, :n])[0]
        torch.testing.assert_close(score[i], expected, rtol=0, atol=1e-12)


def test_every_layer_is_weight_normalised_and_begins_as_torchs():
    for net in (Generator(), Discriminator()):
        layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
        assert len(layers) == {Generator: 4 + 6 * 4, Discriminator: 7 + 3 * 4}[type(net)]
        for layer in layers:
            gain, v = layer.parametrizations.weight.original0, weight(layer)
            torch.testing.assert_close(v.norm(dim=1, keepdim=True), gain)
            assert v.abs().max() <= layer.in_features**-0.5 * (1 + 1e-6)
    torch.manual_seed(3)
    layer = epic.linear(5, 4)
    torch.manual_seed(3)
    torch.testing.assert_close(layer.weight, nn.Linear(5, 4).weight)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_every_parameter_counts(network):
    net = build(network)
    output(net, inputs(network), MASK).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if not p.grad.any()]


def test_what_the_noise_reaches():
    """That of a particle and ten numbers of the jet reach all its particles, but no other jet; two numbers are spare."""
    G, z = build(Generator), inputs(Generator)
    before = G(z, MASK)
    moved = []
    for row, column in [(row, k) for row in range(4) for k in range(3)] + [(4, 0)]:
        changed = z.clone()
        changed[2, row, column] += 1
        differs = (G(changed, MASK) != before).any(-1)
        assert not differs[[0, 1, 3, 4, 5]].any()
        moved.append(bool(differs[2].all()))
        assert moved[-1] or not differs.any()
    assert moved == [True] * 10 + [False] * 2 + [True]


# --- symmetries and padding


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_permutation(network):
    order = torch.stack(
        [torch.randperm(N, generator=torch.Generator().manual_seed(i)) for i in range(len(MASK))]
    )
    net, x = build(network, torch.float64), inputs(network, dtype=torch.float64)
    head, tail = x.split([ROWS[network], N], dim=1)
    permuted = torch.cat([head, tail.take_along_dim(order[..., None], 1)], dim=1)
    expected = output(net, x, MASK)
    if network is Generator:
        expected = expected.take_along_dim(order[..., None], 1)
    made = output(net, permuted, MASK.take_along_dim(order, 1))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_what_padding_holds_changes_nothing_bit_for_bit(network):
    def run(garbage):
        net, x = build(network), inputs(network)
        x[:, ROWS[network] :].masked_fill_(~MASK[..., None], garbage)
        x.requires_grad_()
        out = output(net, x, MASK)
        out.square().sum().backward()
        return [out, x.grad, *(p.grad for p in net.parameters())]

    clean = run(0.5)
    assert all(t.isfinite().all() for t in clean)
    assert not clean[1][:, ROWS[network] :][~MASK].any()
    for garbage in (0.0, 1e30, math.inf, math.nan):
        assert all(torch.equal(a, b) for a, b in zip(clean, run(garbage)))


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_neither_padding_nor_other_jets_change_a_jet(network):
    net, x = build(network), inputs(network)
    together = output(net, x, MASK)
    padded = output(
        net, torch.cat([x, torch.randn(len(MASK), 50, 3)], 1), lengths_to_mask(LENGTHS, N + 50)
    )
    for i, n in enumerate(LENGTHS):
        (alone,) = output(net, x[i : i + 1, : ROWS[network] + n], MASK[i : i + 1, :n])
        for made in (together[i], padded[i]):
            made = made[:n] if network is Generator else made
            torch.testing.assert_close(made, alone, rtol=1e-5, atol=1e-6)


def test_empty_jets_and_single_particles():
    G, D = build(Generator), build(Discriminator)
    mask = lengths_to_mask(torch.tensor([0, 1]), 4)
    x = G(torch.randn(2, 4 + 4, 3), mask)
    score, _ = D(x, mask)
    assert not x[0].any() and x[1, 0].all() and not x[1, 1:].any()
    score.sum().backward()
    assert all(t.isfinite().all() for t in (x, score, *(p.grad for p in G.parameters())))


def test_cost_is_linear_in_particles():
    """And no g stands beside a particle: 3→128, 128→128 twice in 6 layers, 128→3."""

    def flops(network, n):
        x = torch.randn(1, ROWS[network] + n, 3)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network()(x, torch.ones(1, n, dtype=torch.bool))
        return counter.get_total_flops()

    for network in (Generator, Discriminator):
        a, b, c = (flops(network, n) for n in (25, 525, 1025))
        assert c - b == b - a > 0
    per_particle = (flops(Generator, 101) - flops(Generator, 1)) / 100
    assert per_particle == 2 * (3 * 128 + 6 * 2 * 128 * 128 + 128 * 3)


# --- sampling and training


def test_sampled_jets_are_those_of_one_pass_at_full_padding():
    G, seeded = build(Generator), lambda: torch.Generator().manual_seed(1)
    jets, mask = sample_jets(G, LENGTHS, 20, chunk_size=2, generator=seeded())
    z = torch.randn(len(LENGTHS), 4 + 20, 3, generator=seeded())
    assert jets.shape == (len(LENGTHS), 20, 3) and mask.sum(1).tolist() == LENGTHS.tolist()
    torch.testing.assert_close(jets, G(z, mask).detach(), rtol=1e-5, atol=1e-6)


def test_its_settings():
    """Those of its code; --quick and --smoke may change them, but no flag that is MDMA's."""
    shared = dict(beta1=0.9, beta2=0.999, weight_decay=0.0, matching=0, l=16, h_g=48, heads_d=4)
    for words, own in (
        ([], dict(lr=1e-4, num_particles=150, steps=None)),
        (["--quick"], dict(lr=1e-3, warmup=500, lr_total=10_000, ema=0.999, num_particles=30)),
        (["--smoke", "--lr-total", "7"], dict(warmup=2, lr_total=7, batch_size=16)),
    ):
        args = vars(train.parse_args(["--model", "epic", *words]))
        assert {name: args[name] for name in shared | own} == shared | own
    args = train.parse_args(["--model", "epic"])
    for step in (1, 2, 3_000_000):  # constant, in the float32 that the optimisers read
        rate = torch.tensor(args.lr * train.lr_factor(step, args.warmup, args.lr_total))
        assert rate == torch.tensor(1e-4)
    args = train.parse_args(["--quick"])
    assert (args.model, args.beta1, args.weight_decay, args.matching) == ("mdma", 0.0, 0.01, 2000)


@pytest.mark.parametrize(
    "words",
    [
        *("--l 8", "--h-g 24", "--blocks-g 6", "--heads-g 4", "--h-d 32", "--blocks-d 3"),
        *("--heads-d 2", "--n-mean 30", "--aggregate sum", "--update add", "--glu"),
        *("--paper-code", "--matching 30000", "--matching 1", "--matching-weight 0.5"),
    ],
)
def test_what_is_of_mdma_only_is_refused(words):
    flag = words.split()[0]
    for preset in ([], ["--quick"], ["--smoke"]):
        with pytest.raises(UserError, match=f"^{flag} is for MDMA only: leave it out"):
            train.parse_args(["--model", "epic", *preset, *words.split()])
    assert train.parse_args(words.split()).model == "mdma"


@pytest.fixture
def trained(here):
    made = smoke_run("mdma", "X", "--model", "epic", "--ema", 0.9, "--lr", 1e-3)
    assert made["metrics"]["L_match"] == 0


def test_a_resumed_run_has_the_same_bytes(trained):
    smoke_run("mdma", "parts", "--model", "epic", "--ema", 0.9, "--lr", 1e-3, "--steps", 6)
    train.main(["--resume", "parts", "--steps", "12"])
    whole, parts = (
        load_checkpoint(Path(run, "last.pt"), "mdma")["state"] for run in ("X", "parts")
    )
    for name in ("G", "D", "G_ema"):
        assert all(torch.equal(value, parts[name][key]) for key, value in whole[name].items())
    assert json.loads(Path("parts/args.json").read_text())["model"] == "epic"
    with pytest.raises(UserError, match="--model mdma: the run in X was started with epic"):
        train.parse_args(["--resume", "X", "--model", "mdma"])


def test_evaluation(trained, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(mdma_eval, "draw_features", lambda *a: drawn.append((list(a[0]), a[2])))
    monkeypatch.setattr(mdma_eval, "draw_jets", lambda jets, path: drawn.append((list(jets), path)))
    monkeypatch.setattr(mdma_eval, "curves", lambda *a, **k: None)
    metrics = mdma_eval.main(["--ckpt", "X/last.pt", "--n", "300"])
    assert all(math.isfinite(value) for value in metrics.values())
    assert "| EPiC-GAN, ours, bootstrap5_150 |" in Path("X/table1.md").read_text()
    assert "X/last.pt: EPiC-GAN, step 12" in capsys.readouterr().out
    assert drawn[0][0] == ["test jets", "EPiC-GAN"] and drawn[0][1].endswith("300 of EPiC-GAN")
    mdma_eval.main(["--ckpt", "X", "--samples", "4"])
    assert drawn[-1] == (["EPiC-GAN"], "jets.png")
    mdma_eval.main(["--ckpt", "X/last.pt", "--slim", "slim.pt"])
    for folder, path in (("a", "X/last.pt"), ("b", "slim.pt")):
        mdma_eval.main(["--ckpt", path, "--n", "20", "--export", folder])
    assert Path("a/samples_t.hdf5").read_bytes() == Path("b/samples_t.hdf5").read_bytes()


def test_onnx(trained):
    mdma_eval.main(["--ckpt", "X/last.pt", "--onnx", "g.onnx"])
    G, args, stats, _ = mdma_eval.load("X/last.pt", CPU)
    for J, slots in ((1, 8), (5, 8), (5, 1), (5, 20)):
        z, mask = torch.randn(J, 4 + slots, 3), torch.ones(J, slots, dtype=torch.bool)
        mask[-1, 1:] = False
        found = run_onnx("g.onnx", noise=z, mask=mask)
        assert_same(found, features.to_jets(G(z, mask), mask, stats).detach())
        assert not found[~mask].any()


def test_a_checkpoint_without_model_is_mdmas(here):
    smoke_run("mdma", "X", "--steps", 1)
    checkpoint = torch.load("X/last.pt", weights_only=True)
    del checkpoint["args"]["model"]
    torch.save(checkpoint, "X/last.pt")
    G, args, _, _ = mdma_eval.load("X/last.pt", CPU)
    assert args.model == "mdma" and type(G).__module__ == "mdma.model"
