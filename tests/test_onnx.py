"""--onnx: onnxruntime makes of a graph what torch makes of the checkpoint."""

import importlib
import json
import logging
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from common import onnx as onnx_module
from common.errors import UserError
from common.metrics.jets import jet_mass, wasserstein1
from mdma import eval as mdma_eval
from mdma import features
from pan import eval as pan_eval
from tests.helpers import REPO, smoke_run

CPU = torch.device("cpu")
UNIFORM, NORMAL = "uniform on [-1, 1]", "N(0, 1)"
IMAGES = ["--dataset", "synthetic", "--width-g", 4, "--width-d", 4]  # E-GAN's --smoke is a toy
GENERATORS = [
    ("began", [], NORMAL),
    ("began", ["--z-dist", "uniform", "--arch", "berthelot"], UNIFORM),
    ("bigan", ["--arch", "mlp"], UNIFORM),
    ("bigan", ["--arch", "conv", "--prior", "normal"], NORMAL),
    ("bigan", ["--dataset", "8gaussians"], NORMAL),
    ("cagan", [], NORMAL),
    ("egan", [], UNIFORM),
    ("egan", IMAGES, UNIFORM),
    ("sagan_wgangp", ["--method", "sagan"], NORMAL),
    ("sagan_wgangp", ["--method", "gan"], NORMAL),
    ("sagan_wgangp", ["--dataset", "8gaussians", "--method", "wgan_gp"], NORMAL),
]


def run(file, **inputs):
    """The one output of a graph, a tensor, for tensors as inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    return torch.from_numpy(output)


def assert_same(found, expected):
    """To 1e-4 of the deviation: what is trained for three steps gives small numbers."""
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * min(1, expected.std())


def metadata(file):
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


# --- generators of samples


@pytest.mark.parametrize("folder, flags, prior", GENERATORS)
def test_samples_are_the_folders_own(folder, flags, prior, here):
    checkpoint = smoke_run(folder, "X", "--steps", 3, *flags)
    for name, w in checkpoint["state"].get("G", {}).items():
        if name.endswith("gamma"):  # of attention, which is off at first
            w.fill_(1)
    torch.save(checkpoint, "X/last.pt")
    script = importlib.import_module(f"{folder}.eval")
    assert script.main(["--ckpt", "X", "--onnx", "g.onnx"]) is None
    assert metadata("g.onnx")["z"] == prior

    networks = script.load("X/last.pt", CPU)
    G, trained = networks[0], networks[-2]
    for n in (1, 7):
        rng = torch.Generator().manual_seed(0)
        if folder == "cagan":
            names, groups = (checkpoint["state"][key] for key in ("names", "groups"))
            assert metadata("g.onnx")["conditions"] == ", ".join(names)
            cnd = script.asked_for(n, groups)
            z = torch.randn(n, trained.z_dim, generator=rng)
            found = run("g.onnx", z=z, conditions=cnd)
            (expected,) = script.sample(G, cnd, trained, CPU, seed=0)
        else:
            z = script.sample_z((n,) if folder == "egan" else n, trained, rng)
            found = run("g.onnx", z=z)
            (expected,) = script.sample(G, n, trained, CPU, seed=0)
        assert_same(found, expected)


def test_began_clamps(here):
    """Berthelot's generator has no tanh."""
    began_eval = importlib.import_module("began.eval")
    checkpoint = smoke_run("began", "X", "--steps", 3, "--arch", "berthelot")
    *_, last_bias = checkpoint["state"]["G"].values()
    last_bias.fill_(1)
    torch.save(checkpoint, "X/last.pt")
    began_eval.main(["--ckpt", "X", "--onnx", "new/there/g.onnx"])
    G, _, trained, _ = began_eval.load("X/last.pt", CPU)
    (expected,) = began_eval.sample(G, 5, trained, CPU)
    assert expected.max() == 1 > expected.min()
    z = began_eval.sample_z(5, trained, torch.Generator().manual_seed(0))
    assert_same(run("new/there/g.onnx", z=z), expected)


def test_weights_are_constants_and_nothing_tells_of_this_machine(here):
    """Many runtimes need constant weights of convolutions: no W / σ(W) is left to compute."""
    smoke_run("sagan_wgangp", "X", "--steps", 1, "--method", "sagan")
    sagan_eval = importlib.import_module("sagan_wgangp.eval")
    sagan_eval.main(["--ckpt", "X", "--onnx", "g.onnx"])
    graph = onnx.load("g.onnx").graph
    constants = {weights.name for weights in graph.initializer}
    layers = [n for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm")]
    assert len(layers) == 7 and all(node.input[1] in constants for node in layers)
    assert [path.name for path in here.iterdir() if path.suffix != ".onnx"] == ["X"]
    G = sagan_eval.load("X/last.pt", CPU)[0]
    z = torch.randn(2, 128)
    with torch.no_grad():
        before = G(z)
        onnx_module.write_onnx("h.onnx", G, {"z": z}, "samples")
        assert torch.equal(G(z), before)  # G can still be used
    written = Path("g.onnx").read_bytes()
    assert b"site-packages" not in written and str(REPO).encode() not in written


def test_the_fittest_is_written_or_another(here):
    egan_eval = importlib.import_module("egan.eval")
    smoke_run("egan", "X", "--steps", 3, "--mu", 2)
    samples = []
    for individual in (0, 1):
        file = f"{individual}.onnx"
        egan_eval.main(["--ckpt", "X", "--individual", str(individual), "--onnx", file])
        samples.append(run(file, z=torch.linspace(-1, 1, 6).view(3, 2)))
        G, _, _ = egan_eval.load("X/last.pt", CPU, individual)
        assert_same(samples[-1], G(torch.linspace(-1, 1, 6).view(3, 2)))
    assert not torch.equal(*samples)


# --- images to images


@pytest.mark.parametrize(
    "flags, multiple",
    [
        ([], 1),
        (["--net", "unet6", "--size", 64, "--dropout", 0.5], 64),
        (["--net", "unet", "--size", 256, "--task", "denoising", "--channels", 3], 256),
        (["--task", "inpainting", "--size", 64], None),
    ],
)
def test_transformed_images_are_the_folders_own(flags, multiple, here):
    checkpoint = smoke_run("pan", "X", "--steps", 1, *flags)
    if multiple is None:  # untrained, the in-painting net hardly looks at its images
        for w in checkpoint["state"]["T"].values():
            if w.dim() == 4:
                w.mul_(10)
        torch.save(checkpoint, "X/last.pt")
    pan_eval.main(["--ckpt", "X", "--onnx", "t.onnx"])
    T, trained, _ = pan_eval.load("X/last.pt", CPU)
    assert metadata("t.onnx") == {"x": f"{trained.task}, in [-1, 1]"}
    args = pan_eval.arguments.parse_args(pan_eval.Args, pan_eval.__doc__, ["--batch-size", "3"])
    pairs = pan_eval.load_data(trained, "test")
    batches = list(pan_eval.transform_pairs(T, pairs, 4, trained, args, CPU))
    assert [len(x) for x, _, _ in batches] == [3, 1]
    for x, expected, y in batches:
        assert_same(run("t.onnx", x=x), expected)
        if multiple is None:  # the hole is cut in the graph
            assert not torch.equal(x, y)
            assert_same(run("t.onnx", x=y), expected)
    if multiple is not None:
        x = torch.rand(1, trained.channels, 3 * multiple, 2 * multiple) * 2 - 1
        with torch.no_grad():
            assert_same(run("t.onnx", x=x), T(x))


# --- jets


def noise_and_mask(stats, J, N, seed):
    """What `generate` draws."""
    rng = torch.Generator().manual_seed(seed)
    n = torch.multinomial(stats["counts"].double(), J, replacement=True, generator=rng)
    seed = int(torch.randint(2**62, (), generator=rng))
    noise = torch.randn(J, N, 3, generator=torch.Generator().manual_seed(seed))
    return noise, torch.arange(N) < n[:, None]


@pytest.mark.parametrize(
    "flags",
    [["--pt", "linear"], ["--pt", "log", "--ema", 0.9], ["--pt", "softplus", "--glu"]],
)
def test_jets_are_the_generated_ones(flags, here):
    smoke_run("mdma", "X", "--steps", 3, *flags)
    mdma_eval.main(["--ckpt", "X", "--onnx", "g.onnx"])
    G, trained, stats, _ = mdma_eval.load("X/last.pt", CPU)
    N = trained.num_particles
    for J in (1, 50):
        noise, mask = noise_and_mask(stats, J, N, seed=4)
        found = run("g.onnx", noise=noise, mask=mask)
        expected = features.generate(G, J, stats, N, torch.Generator().manual_seed(4))
        assert_same(found, expected)
        assert not found[~mask].any()
    for other in (1, 2 * N):
        noise, mask = torch.randn(3, other, 3), torch.ones(3, other, dtype=torch.bool)
        mask[1, 1:] = False
        assert_same(
            run("g.onnx", noise=noise, mask=mask),
            features.to_jets(G(noise, mask), mask, stats).detach(),
        )


def test_the_authors_networks_keep_their_number_of_particles(here):
    """What the padding is changes their jets."""
    smoke_run("mdma", "X", "--steps", 3, "--paper-code")
    mdma_eval.main(["--ckpt", "X", "--onnx", "g.onnx"])
    G, trained, stats, _ = mdma_eval.load("X/last.pt", CPU)
    noise, mask = noise_and_mask(stats, 20, trained.num_particles, seed=4)
    expected = features.generate(G, 20, stats, mask.shape[1], torch.Generator().manual_seed(4))
    assert_same(run("g.onnx", noise=noise, mask=mask), expected)
    with pytest.raises(Exception, match="Got: 4 Expected: 8"):
        run("g.onnx", noise=noise[:, :4], mask=mask[:, :4])


def recipe(text, **changed):
    """The names that the code of a docstring makes, in which words are replaced first."""
    code = textwrap.dedent(re.search(r"^( *)import .*", text, re.M | re.S)[0])
    for old, new in changed.items():
        assert old in code
        code = code.replace(old, new)
    names = {}
    exec(code, names)
    return names


def test_the_shipped_jets_by_the_recipe(here, repo):
    """The recipe's jets are as near to those of `generate` as two of its sets are to each other."""
    ckpt = repo / "mdma/results/t30.pt"
    mdma_eval.main(["--ckpt", str(ckpt), "--onnx", "jets.onnx"])
    G, _, stats, _ = mdma_eval.load(ckpt, CPU)
    assert json.loads(metadata("jets.onnx")["counts"]) == stats["counts"].tolist()
    np.random.seed(0)
    text = re.sub(r"^    \"\"\"$", "", features.JetGenerator.__doc__)
    theirs = torch.from_numpy(recipe(text, **{"1000": "2000"})["jets"])
    assert theirs.dtype == torch.float32 and theirs.shape == (2000, 30, 3)
    first, second = (
        features.generate(G, 2000, stats, 30, torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    mass = jet_mass(theirs), jet_mass(first), jet_mass(second)
    assert wasserstein1(*mass[:2]) < 2 * wasserstein1(*mass[1:])
    noise, mask = noise_and_mask(stats, 2000, 30, seed=0)
    same = run("jets.onnx", noise=noise, mask=mask)
    torch.testing.assert_close(same, first, rtol=0, atol=1e-5)
    assert wasserstein1(jet_mass(same), mass[1]) < 1e-6


# --- the file


def test_the_recipe_for_samples(here):
    smoke_run("began", "X", "--steps", 1)
    importlib.import_module("began.eval").main(["--ckpt", "X", "--onnx", "generator.onnx"])
    assert recipe(onnx_module.__doc__)["images"].shape == (16, 1, 16, 16)


def test_one_line_names_what_is_written_and_nothing_is_overwritten(here, capsys, caplog, recwarn):
    smoke_run("mdma", "X", "--steps", 1)
    words = ["--ckpt", "X", "--onnx", "g.onnx"]
    capsys.readouterr()
    recwarn.clear()
    mdma_eval.main(words)
    shapes = "noise (batch, particles, 3), mask (batch, particles) -> jets (batch, particles, 3)"
    out, err = capsys.readouterr()
    assert not out and re.fullmatch(r"eval: wrote g.onnx, 0\.\d\d MB: (.*)\n", err)[1] == shapes
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not recwarn.list
    before = Path("g.onnx").read_bytes()
    with pytest.raises(UserError, match="g.onnx exists already: .*--onnx"):
        mdma_eval.main(words)
    assert Path("g.onnx").read_bytes() == before


def test_without_onnxscript_a_line_says_what_to_install(here, monkeypatch):
    smoke_run("began", "X", "--steps", 1)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="--onnx needs onnxscript .*: pip install onnxscript"):
        importlib.import_module("began.eval").main(["--ckpt", "X", "--onnx", "g.onnx"])
    assert [path.name for path in here.iterdir()] == ["X"]
