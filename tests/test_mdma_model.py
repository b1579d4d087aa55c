"""MDMA's networks against plain layers, its symmetries and what padding may not do, and its objectives by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from common.masking import lengths_to_mask
from mdma import features
from mdma.features import sample_jets
from mdma.model import (
    OBJECTIVES,
    Block,
    Critic,
    Generator,
    MeanFieldAttention,
    WNLinear,
    gelu,
    gradient_penalty,
    mean_field_matching,
    plain_block,
)

N = 12
LENGTHS = torch.tensor([5, 1, 12, 7, 3, 9])
MASK = lengths_to_mask(LENGTHS, N)
ABLATIONS = [{}, {"aggregate": "mean"}, {"aggregate": "sum"}, {"update": "add"}, {"glu": True}]
SMALL = {Generator: {"blocks": 2}, Critic: {}}


def build(network, dtype=torch.float32, seed=0, **options):
    """With biases, gains and all else off their initial values, so that every term counts."""
    torch.manual_seed(seed)
    net = network(**options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.to(dtype)


def particles(*shape, seed=0, dtype=torch.float32):
    return torch.randn(
        *shape or (len(MASK), N, 3), generator=torch.Generator().manual_seed(seed)
    ).to(dtype)


def outputs(net, x, mask):
    """G's particles, or D's score and mean field, as a tuple."""
    out = net(x, mask)
    return out if isinstance(out, tuple) else (out,)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


# --- architecture


def test_parameter_counts():
    assert (parameters(Generator(paper_code=True)), parameters(Critic(paper_code=True))) == (
        87_136,
        43_040,
    )
    assert (parameters(Generator()), parameters(Critic())) == (87_139, 41_744)
    for network in (Generator, Critic):  # §3: the GLU has as many as the linear layer
        assert parameters(network(glu=True)) == parameters(network())


@pytest.mark.parametrize("paper_code", [False, True])
@pytest.mark.parametrize("network", [Generator, Critic])
def test_every_parameter_counts_but_for_those_named_as_dead(network, paper_code):
    net = build(network, paper_code=paper_code)
    sum(o.square().sum() for o in outputs(net, particles(), MASK)).backward()
    dead = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert dead == (
        {"cls_token", "blocks.1.out.direction"} if paper_code and network is Critic else set()
    )


def test_attention_is_multihead_attention():
    torch.manual_seed(0)
    for h, heads in ((48, 8), (64, 4)):
        reference = nn.MultiheadAttention(h, heads, batch_first=True)
        nn.init.normal_(reference.in_proj_bias)
        nn.init.normal_(reference.out_proj.bias)
        attention = MeanFieldAttention(h, heads)
        attention.load_state_dict(reference.state_dict())
        c, x = torch.randn(len(MASK), h), torch.randn(len(MASK), N, h)
        expected = reference(c[:, None], x, x, key_padding_mask=~MASK)[0][:, 0]
        torch.testing.assert_close(attention(c, x, MASK), expected, rtol=0, atol=5e-6)


def block_of_torch_layers(block, x, c, n, act, act_c):
    """Fig. 1 by nn.MultiheadAttention and weights normalised by hand: the new x and c."""

    def layer(linear, v):
        weight = linear.direction if isinstance(linear, WNLinear) else linear.weight
        if isinstance(linear, WNLinear):
            weight = weight / weight.square().sum(1, keepdim=True).sqrt()
        return v @ weight.T + (0 if linear.bias is None else linear.bias)

    attention = nn.MultiheadAttention(
        block.norm.normalized_shape[0], block.attention.heads, batch_first=True
    )
    attention.load_state_dict(
        {
            "in_proj_weight": block.attention.in_proj_weight,
            "in_proj_bias": block.attention.in_proj_bias,
            "out_proj.weight": block.attention.out_proj.weight,
            "out_proj.bias": block.attention.out_proj.bias,
        }
    )
    h = act(layer(block.up, x))
    query = act(block.norm(layer(block.up, c)))
    c = attention(query[:, None], h, h, key_padding_mask=~MASK)[0][:, 0]
    c = act_c(layer(block.down, torch.cat([c, n], dim=1)))
    return act(layer(block.out, torch.cat([h, c[:, None].expand(-1, N, -1)], dim=2))), c


@pytest.mark.parametrize(
    "network, act, act_c",
    [(Generator, F.gelu, lambda c: c), (Critic, F.leaky_relu, F.leaky_relu)],
)
def test_the_plain_and_the_fast_block_are_fig_1(network, act, act_c):
    block = build(network).blocks[0]
    x, c, n = particles(len(MASK), N, 16), particles(len(MASK), 16, seed=1), LENGTHS[:, None] / 70
    expected = block_of_torch_layers(block, x, c, n, act, act_c)
    for made in (plain_block(block, x, c, n, MASK), Block.forward(block, x, c, n, MASK)):
        torch.testing.assert_close(made, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("paper_code", [False, True])
def test_generator_against_plain_blocks(paper_code):
    G, z = build(Generator, paper_code=paper_code), particles() * MASK[..., None]
    embedded = G.embed(z)
    x = F.leaky_relu(embedded, 0.01) if paper_code else F.gelu(embedded)
    c = (x if paper_code else x * MASK[..., None]).sum(1) / 70
    n = (N - LENGTHS if paper_code else LENGTHS)[:, None] / 70
    for block in G.blocks:
        y, c = plain_block(block, x, c, n, MASK)
        x = F.gelu(block.mix(y) + x)
    x = F.linear(x, F.normalize(G.out.direction)) if paper_code else G.out(x)
    torch.testing.assert_close(G(z, MASK), x * MASK[..., None], rtol=0, atol=5e-6)


@pytest.mark.parametrize("paper_code", [False, True])
def test_critic_against_plain_blocks(paper_code):
    D, x = build(Critic, paper_code=paper_code), particles() * MASK[..., None]
    made = D(x, MASK)
    n = (N - LENGTHS if paper_code else LENGTHS)[:, None] / 70
    h = F.leaky_relu(D.embed(x))
    mean_field = D.init(torch.cat([h.sum(1) / (N if paper_code else 70), n], dim=1))
    for block in D.blocks:
        c = F.leaky_relu(mean_field)
        if block.out is None:  # of the last block, whose particles nobody needs
            block.out = WNLinear(64 + 16, 16)
        h, u = plain_block(block, h, c, n, MASK)
        mean_field = u + c
    score = D.head[3](D.head[2](F.leaky_relu(D.head[0](F.leaky_relu(mean_field)))))
    score = D.head[5](F.leaky_relu(score))[:, 0]
    torch.testing.assert_close(made, (score, mean_field), rtol=0, atol=5e-6)


def test_weight_normalised_rows():
    layer, x = WNLinear(17, 16), particles(4, 17)
    before = layer(x)
    torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(16), rtol=0, atol=1e-6)
    with torch.no_grad():
        layer.direction[3] *= 10
    torch.testing.assert_close(layer(x), before)
    torch.testing.assert_close(layer(layer.weight[:1]), layer.weight[:1] @ layer.weight.T)
    assert {type(m) for m in Critic().modules()} & {nn.Linear} == {
        nn.Linear
    }  # the attentions' output
    assert not {type(m) for m in Generator().modules()} & {WNLinear}


def test_ablations_by_hand():
    """One block of one hidden unit on the identity: c' = W [pooled, n] + b, y = gelu(h + c'), x' = gelu(y + x)."""
    x, c = particles(2, 3, 1).abs(), torch.zeros(2, 1)
    mask = lengths_to_mask(torch.tensor([2, 3]))
    n = torch.tensor([[2.0], [3.0]]) / 10
    h = F.gelu(x) * mask[..., None]
    for aggregate, pooled in (("mean", h.sum(1) / (10 * n)), ("sum", h.sum(1) / 10)):
        for glu in (False, True):
            G = Generator(
                l=1, h=1, blocks=1, heads=1, aggregate=aggregate, update="add", glu=glu, n_mean=10.0
            )
            block = G.blocks[0]
            for layer in (block.up, block.out, block.mix):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
            new_x, new_c = block(x, c, n, mask)
            W, v, b = *block.down.weight[0], block.down.bias
            expected = (W * pooled + b) * torch.sigmoid(v * n) if glu else W * pooled + v * n + b
            torch.testing.assert_close(new_c, expected)
            expected = F.gelu(F.gelu(F.gelu(x) + expected[:, None]) + x)
            torch.testing.assert_close(new_x[mask], expected[mask])


def test_heads_must_divide_the_hidden_dimension():
    with pytest.raises(ValueError, match="hidden dimension 48 is not a multiple of 5 heads"):
        Generator(heads=5)


# --- symmetries and padding, in every variant


@pytest.mark.parametrize("network", [Generator, Critic])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_permutation(network, options):
    order = torch.stack(
        [torch.randperm(N, generator=torch.Generator().manual_seed(i)) for i in range(len(MASK))]
    )
    for dtype, atol in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        net, x = build(network, dtype, **SMALL[network], **options), particles(dtype=dtype)
        permuted = outputs(
            net, x.take_along_dim(order[..., None], 1), MASK.take_along_dim(order, 1)
        )
        expected = outputs(net, x, MASK)
        if network is Generator:
            expected = (expected[0].take_along_dim(order[..., None], 1),)
        torch.testing.assert_close(permuted, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("network", [Generator, Critic])
@pytest.mark.parametrize("options", [*ABLATIONS, {"paper_code": True}], ids=str)
def test_what_padding_holds_changes_nothing_bit_for_bit(network, options):
    def run(garbage):
        net = build(network, **SMALL[network], **options)
        x = particles().masked_fill(~MASK[..., None], garbage).requires_grad_()
        out = outputs(net, x, MASK)
        loss = sum(o.square().sum() for o in out)
        loss.backward()
        return [*out, loss, x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]

    clean = run(0.5)
    assert all(t.isfinite().all() for t in clean)
    if network is Generator:
        assert not clean[0][~MASK].any() and clean[0][MASK].all()
    for garbage in (0.0, 1e30, math.inf, math.nan):
        for a, b in zip(clean, run(garbage)):
            assert torch.equal(a, b)


@pytest.mark.parametrize("network", [Generator, Critic])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_extra_padding_changes_nothing(network, options):
    net, x = build(network, **SMALL[network], **options), particles()
    longer = torch.cat([x, particles(len(MASK), 50, 3, seed=1)], dim=1)
    padded = outputs(net, longer, lengths_to_mask(LENGTHS, N + 50))
    for a, b in zip(outputs(net, x, MASK), padded):
        torch.testing.assert_close(b[:, :N] if network is Generator else b, a, rtol=0, atol=1e-6)


def test_published_configuration_depends_on_padding():
    """As the README says of it: what departures 1 and 2 mend."""
    for network in (Generator, Critic):
        net, x = build(network, paper_code=True), particles() * MASK[..., None]
        padded = outputs(net, F.pad(x, (0, 0, 0, 50)), lengths_to_mask(LENGTHS, N + 50))[0]
        assert (
            padded[:, :N] - net(x, MASK) if network is Generator else padded - net(x, MASK)[0]
        ).abs().max() > 1e-3


@pytest.mark.parametrize("network", [Generator, Critic])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_a_jet_depends_on_no_other(network, options):
    net, x = build(network, **SMALL[network], **options), particles()
    together = outputs(net, x, MASK)
    for i, n in enumerate(LENGTHS):
        for a, b in zip(together, outputs(net, x[i : i + 1, :n], MASK[i : i + 1, :n])):
            torch.testing.assert_close(
                a[i, :n] if network is Generator else a[i], b[0], rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("options", [*ABLATIONS, {"paper_code": True}], ids=str)
def test_empty_jets_and_single_particles(options):
    mask = lengths_to_mask(torch.tensor([0, 1]), 4)
    G, D = build(Generator, **SMALL[Generator], **options), build(Critic, **options)
    x = G(particles(2, 4, 3), mask)
    score, mean_field = D(x, mask)
    assert not x[0].any() and x[1, 0].all() and not x[1, 1:].any()
    assert score.shape == (2,) and mean_field.shape == (2, 16)
    (score.sum() + mean_field.sum()).backward()
    assert all(
        t.isfinite().all() for t in (x, score, mean_field, *(p.grad for p in G.parameters()))
    )


def test_cost_is_linear_in_particles():
    def flops(network, n):
        net, x = network(), particles(1, n, 3)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x, torch.ones(1, n, dtype=torch.bool))
        return counter.get_total_flops()

    for network in (Generator, Critic):
        a, b, c = (flops(network, n) for n in (25, 525, 1025))
        assert c - b == b - a > 0  # exactly a + b n
        assert math.log(flops(network, 1000) / a) / math.log(1000 / 25) <= 1.0
    # of one particle: 16→48, 8 scores and 8 weighted sums of 48, 48→16 and 16→16 in 7 blocks; 3→16 and 16→3. No 48→96
    assert (flops(Generator, 101) - flops(Generator, 1)) / 100 == 2 * (
        7 * (768 + 2 * 8 * 48 + 768 + 256) + 96
    )


# --- sampling


class Spy(nn.Module):
    def __init__(self, G):
        super().__init__()
        self.G, self.shapes = G, []

    def forward(self, z, mask):
        self.shapes.append(tuple(z.shape[:2]))
        return self.G(z, mask)


def test_sampling_trims_padding_and_keeps_the_order():
    G = Spy(build(Generator, blocks=2))
    jets, mask = sample_jets(
        G, LENGTHS, 20, chunk_size=2, generator=torch.Generator().manual_seed(3)
    )
    assert G.shapes == [(2, 12), (2, 7), (2, 3)]
    assert (
        mask.sum(1).tolist() == LENGTHS.tolist()
        and jets.shape == (6, 20, 3)
        and not jets.requires_grad
    )
    assert not jets[~mask].any()
    z = particles(6, 20, 3, seed=3)  # same seed, whatever the chunks
    torch.testing.assert_close(jets, G(z, mask), rtol=0, atol=1e-6)
    again, _ = sample_jets(G, LENGTHS, 20, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(again, jets, rtol=0, atol=1e-6)


def test_a_chunk_has_as_many_jets_as_fit_its_slots(monkeypatch):
    G = Spy(build(Generator, blocks=2))
    monkeypatch.setitem(features.SLOTS, "cpu", 25)
    n = torch.tensor([2, 12, 5, 12, 26, 2, 2])
    sample_jets(G, n, 30)
    assert G.shapes == [(1, 26), (2, 12), (4, 5)]  # one jet at least, and 25 // N of them


def test_gelu_writes_over_its_argument_only_without_gradients():
    x = torch.randn(100)
    kept = x.clone()
    assert gelu(x).data_ptr() == x.data_ptr()
    assert torch.equal(x, F.gelu(kept))
    leaf = kept.clone().requires_grad_()
    assert torch.equal(gelu(leaf), F.gelu(kept)) and torch.equal(leaf, kept)


@pytest.mark.parametrize("n", [0, 21])
def test_sampling_refuses_impossible_jets(n):
    with pytest.raises(ValueError, match="possible are 1 to 20"):
        sample_jets(Generator(), torch.tensor([4, n]), 20)


# --- objectives


@pytest.mark.parametrize(
    "name, real, fake, critic, generator",
    [
        ("lsgan", [1.0, 1.0], [0.0, 0.0], 0.0, 0.5),
        ("lsgan", [0.5, 0.5], [0.5, 0.5], 0.5, 0.125),
        ("lsgan", [3.0, 1.0], [2.0, 0.0], 4.0, 0.5),  # (4 + 0)/2 + (4 + 0)/2, (1 + 1)/4
        ("vanilla", [0.0, 0.0], [0.0, 0.0], 2 * math.log(2), math.log(2)),
        (
            "vanilla",
            [math.log(3)],
            [-math.log(3)],
            2 * math.log(4 / 3),
            math.log(4),
        ),  # σ = 3/4 and 1/4
        ("vanilla", [200.0], [-200.0], 0.0, 200.0),  # no log of 0
        ("wgan-gp", [3.0, 1.0], [0.0, 1.0], -1.5, -0.5),
    ],
)
def test_losses_by_hand(name, real, fake, critic, generator):
    critic_loss, generator_loss = OBJECTIVES[name]
    real, fake = torch.tensor(real), torch.tensor(fake)
    assert critic_loss(real, fake).item() == pytest.approx(critic, abs=1e-6)
    assert generator_loss(fake).item() == pytest.approx(generator, abs=1e-6)


def test_mean_field_matching_by_hand():
    fake, real = (torch.tensor([v], requires_grad=True) for v in ([1.0, 2.0], [0.0, 0.0]))
    loss = mean_field_matching(fake, real)
    loss.backward()
    assert loss.item() == 2.5 and fake.grad.tolist() == [[1.0, 2.0]] and real.grad is None


def test_gradient_penalty_by_hand():
    w = torch.tensor([1.0, -2.0, 2.0])  # of norm 3
    garbage = particles().masked_fill(~MASK[..., None], math.nan)
    u = torch.rand(len(MASK))

    def linear(x, mask):  # reads padding: it must not count
        return (x * w).sum((1, 2)), None

    expected = (3 * LENGTHS.float().sqrt() - 1).square().mean()  # one norm a jet, √n·‖w‖
    torch.testing.assert_close(
        gradient_penalty(linear, garbage, particles(seed=1), u, MASK), expected
    )

    def quadratic(x, mask):  # its gradient is x̂
        return x.square().sum((1, 2)) / 2, None

    real, fake = torch.full((2, 1, 3), 1.0), torch.full((2, 1, 3), 5.0)
    penalty = gradient_penalty(
        quadratic, real, fake, torch.tensor([1.0, 0.25]), torch.ones(2, 1, dtype=torch.bool)
    )
    assert penalty.item() == pytest.approx(
        ((3**0.5 - 1) ** 2 + (4 * 3**0.5 - 1) ** 2) / 2
    )  # x̂ = 1 and 4


def test_gradient_penalty_trains_the_critic():
    """Its gradient in the critic's parameters against finite differences, with NaN in padding."""
    D = build(Critic, torch.float64)
    real, fake = (
        particles(seed=s, dtype=torch.float64).masked_fill(~MASK[..., None], math.nan)
        for s in (0, 1)
    )
    u = torch.rand(len(MASK), dtype=torch.float64)
    penalty = lambda: gradient_penalty(D, real, fake, u, MASK)
    penalty().backward()
    torch.manual_seed(1)
    used = [p for p in D.parameters() if p.grad is not None]
    directions = [torch.randn_like(p) for p in used]

    def moved(step):
        with torch.no_grad():
            for p, d in zip(used, directions):
                p.add_(d, alpha=step)
        value = penalty().item()
        with torch.no_grad():
            for p, d in zip(used, directions):
                p.sub_(d, alpha=step)
        return value

    slope = sum((p.grad * d).sum().item() for p, d in zip(used, directions))
    assert (
        slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-5) and abs(slope) > 1e-3
    )
    assert D.embed.direction.grad.any() and D.blocks[0].attention.out_proj.weight.grad.any()


@pytest.mark.parametrize("paper_code", [False, True])
def test_sampled_jets_are_those_of_one_pass_at_full_padding(paper_code):
    """With the authors' networks padding counts, so there nothing may be trimmed."""
    G = Generator(l=4, h=8, blocks=2, heads=2, paper_code=paper_code)
    n = torch.tensor([3, 9, 1, 5, 9, 2])
    jets, mask = sample_jets(G, n, 20, chunk_size=2, generator=torch.Generator().manual_seed(1))
    z = torch.randn(6, 20, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(jets, G(z, mask).detach(), rtol=0, atol=1e-6)
