"""BEGAN: each equation of §2.3 against numbers worked out by hand, who gets gradient in each step, the networks."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from began import eval as began_eval
from began import pretrained, reproduce, thesis_log, train
from began.model import (
    Autoencoder,
    BerthelotDecoder,
    BerthelotEncoder,
    ConvTransposeDecoder,
    Generator,
    ResNet18,
    autoencoder_error,
    convergence_measure,
    discriminator_loss,
    generator_loss,
    update_k,
)
from began.thesis_log import THESIS_LOG, thesis_table
from common.arguments import EvalArgs
from common.errors import UserError
from common.torchvision_cpu import import_torchvision
from common.rng import step_rng
from common.metrics import find_metric
from common.runs import load_checkpoint, read_log
from tests.helpers import check_tables_outlive_runs

T = torch.tensor
CPU = torch.device("cpu")


def count(net):
    return sum(p.numel() for p in net.parameters())


# --- equations


def test_autoencoder_error_is_the_mean_over_pixels_per_image():
    v = T([[[[1.0, -1.0], [0.5, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    r = T([[[[0.0, -1.0], [0.0, 0.5]]], [[[0.0, 0.0], [0.0, 2.0]]]])
    assert autoencoder_error(v, r).tolist() == [0.5, 0.5]  # (1 + 0 + .5 + .5) / 4 ; 2 / 4
    assert autoencoder_error(v, r, 2).tolist() == [0.375, 1.0]  # (1 + 0 + .25 + .25) / 4 ; 4 / 4


def test_autoencoder_error_is_computed_in_fp32_under_bf16():
    v = torch.full((1, 1, 1, 3), 1.0, dtype=torch.bfloat16)
    error = autoencoder_error(v, v * 0.99)
    assert error.dtype == torch.float32


def test_losses_by_hand():
    real, fake = T([0.2, 0.4]), T([0.1, 0.3])
    assert discriminator_loss(real, fake, 0.5).item() == pytest.approx(0.3 - 0.5 * 0.2)
    assert discriminator_loss(real, fake, T(1.0)).item() == pytest.approx(0.1)
    assert generator_loss(fake).item() == pytest.approx(0.2)


def test_k_and_M_by_hand():
    L_x, L_G = T(0.2), T(0.05)
    assert update_k(T(0.0), L_x, L_G, 0.5, 1e-3).item() == pytest.approx(5e-5)  # 1e-3 (.1 − .05)
    assert convergence_measure(L_x, L_G, 0.5).item() == pytest.approx(0.25)  # .2 + |.1 − .05|
    assert convergence_measure(L_x, T(0.3), 0.5).item() == pytest.approx(0.4)  # .2 + |.1 − .3|


def test_k_stays_in_0_1():
    assert update_k(T(0.0), T(0.1), T(0.9), 0.5, 1.0).item() == 0.0
    assert update_k(T(1.0), T(0.9), T(0.1), 0.5, 1.0).item() == 1.0
    assert update_k(T(0.3), T(0.5), T(0.2), 0.0, 10.0).item() == 0.0  # γ = 0: k can't rise


def test_perfect_autoencoder_is_an_equilibrium():
    v = torch.rand(4, 1, 8, 8)
    L = autoencoder_error(v, v.clone()).mean()
    assert (
        L == 0
        and convergence_measure(L, L, 0.5) == 0
        and update_k(T(0.3), L, L, 0.5, 1e-3) == T(0.3)
    )


def test_k_and_M_carry_no_gradient():
    L_x, L_G = T(0.2, requires_grad=True), T(0.1, requires_grad=True)
    assert not update_k(T(0.1), L_x, L_G, 0.5, 1e-3).requires_grad
    assert not convergence_measure(L_x, L_G, 0.5).requires_grad


def test_thesis_log_is_consistent_with_our_formulas():
    """L_x = L_D + k·L_G (up to the printed k being one step newer) must give the printed M."""
    for _, L_D, L_G, k, M in THESIS_LOG:
        assert convergence_measure(T(L_D + k * L_G), T(L_G), 0.5).item() == pytest.approx(
            M, abs=3e-4
        )


def test_error_is_invariant_to_order_and_duplication_without_batchnorm():
    D = Autoencoder(8, 16, 1, 4, "berthelot", "conv").double()
    x = torch.rand(6, 1, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        a = autoencoder_error(x, D(x))
        order = torch.tensor([3, 1, 0, 5, 4, 2])
        assert torch.allclose(
            autoencoder_error(x[order], D(x[order])), a[order], atol=1e-6
        )  # the error is fp32
        twice = torch.cat([x, x])
        assert autoencoder_error(twice, D(twice)).mean().item() == pytest.approx(
            a.mean().item(), abs=1e-6
        )


# --- who gets gradient: the loop of train.py itself, observed just before each optimiser step


@pytest.fixture
def observed_step(tmp_path, monkeypatch, watch_steps):
    """The second step of a run with k_2 ≠ 0: networks, batch, z's and all gradients before each step()."""
    nets, seen, k_used = {}, [], []
    build = train.build

    def remember(*a):
        nets["G"], nets["D"] = build(*a)
        return nets["G"], nets["D"]

    def grads(net):
        return {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}

    def look(optimiser):
        first = optimiser.param_groups[0]["params"][0]
        stepping = "G" if first is next(nets["G"].parameters()) else "D"
        seen.append(
            {
                "net": stepping,
                **{f"grad_{k}": grads(v) for k, v in nets.items()},
                **{
                    f"state_{k}": {n: t.clone() for n, t in v.state_dict().items()}
                    for k, v in nets.items()
                },
            }
        )

    def loss(real_error, fake_error, k_t):
        k_used.append(float(k_t))
        return discriminator_loss(real_error, fake_error, k_t)

    monkeypatch.setattr(train, "build", remember)
    watch_steps(train, "fused_adam", look)
    monkeypatch.setattr(train, "discriminator_loss", loss)
    argv = [
        "--smoke",
        "--arch",
        "berthelot",
        "--width",
        "4",
        "--code-dim",
        "8",
        "--z-dim",
        "6",
        "--batch-size",
        "4",
        "--steps",
        "2",
        "--lambda-k",
        "0.5",
        "--gamma",
        "1",
        "--out",
        str(tmp_path / "run"),
    ]
    train.main(argv)
    seen.append({f"state_{k}": v.state_dict() for k, v in nets.items()})
    args = train.parse_args(argv)
    rng = step_rng(args.seed, 2)
    z_D, z_G = (train.sample_z(4, args, rng) for _ in range(2))
    x, _ = train.load_images("synthetic", "none", "train", args.size, 1).batch(1, 4, args.seed)
    args.channels = 1
    G, D = build(args)
    return dict(first_D_step=seen[0], seen=seen[2:], k=k_used[1], x=x, z_D=z_D, z_G=z_G, G=G, D=D)


def assert_same(found, expected):
    for (name, a), b in zip(found.items(), expected):
        assert torch.allclose(a, b, atol=1e-7, rtol=1e-4), name


def test_D_step_has_the_gradient_of_L_D_and_nothing_of_L_G(observed_step):
    s, before = observed_step, observed_step["seen"][0]
    assert before["net"] == "D" and 0.05 < s["k"] <= 1
    s["G"].load_state_dict(before["state_G"])
    s["D"].load_state_dict(before["state_D"])
    params = list(s["D"].parameters())
    fake = s["G"](s["z_D"]).detach()
    grad_x = torch.autograd.grad((s["x"] - s["D"](s["x"])).abs().mean(), params)
    grad_fake = torch.autograd.grad((fake - s["D"](fake)).abs().mean(), params)
    assert_same(before["grad_D"], [a - s["k"] * b for a, b in zip(grad_x, grad_fake)])


def test_G_step_has_the_gradient_of_L_G_against_the_updated_D(observed_step):
    s, (first, second, _) = observed_step, observed_step["seen"]
    assert second["net"] == "G"
    assert any(not torch.equal(a, first["state_D"][n]) for n, a in second["state_D"].items()), (
        "D was not updated"
    )
    s["G"].load_state_dict(second["state_G"])
    s["D"].load_state_dict(second["state_D"])
    fake = s["G"](s["z_G"])
    assert_same(
        second["grad_G"],
        torch.autograd.grad((fake - s["D"](fake)).abs().mean(), list(s["G"].parameters())),
    )


def test_each_step_leaves_the_other_network_alone(observed_step):
    first, second, after = observed_step["seen"]
    assert all(g is None for g in observed_step["first_D_step"]["grad_G"].values()), (
        "D's step reached G"
    )
    assert all(torch.equal(a, second["state_G"][n]) for n, a in first["state_G"].items()), (
        "D's step moved G"
    )
    assert all(torch.equal(a, second["grad_D"][n]) for n, a in first["grad_D"].items()), (
        "G's step wrote into D.grad"
    )
    assert all(torch.equal(a, after["state_D"][n]) for n, a in second["state_D"].items()), (
        "G's step moved D"
    )
    assert any(not torch.equal(a, after["state_G"][n]) for n, a in second["state_G"].items()), (
        "G did not move"
    )


@pytest.mark.parametrize("z_dist", ["normal", "uniform"])
def test_training_is_in_train_mode_and_drawing_in_eval_mode(
    tmp_path, monkeypatch, watch_steps, grids_of, z_dist
):
    """BatchNorm: batch statistics in each step, also after samples were drawn; running ones for the samples."""
    nets, modes = [], []
    drawn = grids_of(train)
    build = train.build
    monkeypatch.setattr(train, "build", lambda *a: nets.extend(build(*a)) or tuple(nets))
    watch_steps(train, "fused_adam", lambda optimiser: modes.append([net.training for net in nets]))
    flags = ["--smoke", "--z-dist", z_dist]
    train.main([*flags, "--steps", "3", "--sample-every", "1", "--out", str(tmp_path / "r")])
    assert modes == [[True, True]] * 6
    assert len(drawn) == 3
    args = train.parse_args(flags)
    nets[0].eval()
    assert torch.equal(nets[0](train.sample_z(64, args, step_rng(args.seed, 0))), drawn[-1]), (
        "z's are fixed ones"
    )


def test_optimisers_have_their_rates_and_all_errors_their_norm(tmp_path, monkeypatch):
    norms = []
    monkeypatch.setattr(
        train,
        "autoencoder_error",
        lambda v, r, norm=1: norms.append(norm) or autoencoder_error(v, r),
    )
    train.main(
        [
            "--smoke",
            "--steps",
            "1",
            "--lr-g",
            "0.3",
            "--lr-d",
            "0.2",
            "--beta1",
            "0.4",
            "--target-norm",
            "2",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    assert norms == [2, 2, 2], "of x, G(z_D) and G(z_G)"
    state = torch.load(tmp_path / "r/last.pt", weights_only=True)["state"]
    for opt, lr in (("opt_G", 0.3), ("opt_D", 0.2)):
        group = state[opt]["param_groups"][0]
        assert (group["lr"], *group["betas"]) == (lr, 0.4, 0.999)


def test_the_log_follows_the_papers_equations(tmp_path):
    """k and M of each line are those of its L_x and L_G; L_D is that of the errors that D's step saw."""
    train.main(
        [
            "--smoke",
            "--steps",
            "5",
            "--log-every",
            "1",
            "--lambda-k",
            "0.7",
            "--gamma",
            "0.9",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    k = 0.0
    for line in read_log(tmp_path / "r/log.jsonl"):
        balance = 0.9 * line["L_x"] - line["L_G"]
        assert (line["L_D"] < line["L_x"]) == (k > 0)
        k = min(max(k + 0.7 * balance, 0), 1)
        assert line["k"] == pytest.approx(k, abs=1e-6)
        assert line["M"] == pytest.approx(line["L_x"] + abs(balance), abs=1e-6)
    assert k > 0


def test_resume_goes_on_with_k_and_the_rates(tmp_path, monkeypatch):
    """Stopped in the middle of a window of M, which is constant here: the rates halve at steps 4, 6 and 8."""
    monkeypatch.setattr(train, "convergence_measure", lambda *a: T(1.0))
    words = [
        "--smoke",
        "--lambda-k",
        "0.7",
        "--gamma",
        "0.9",
        "--lr-halve-patience",
        "2",
        "--lr-d",
        "0.1",
    ]
    train.main([*words, "--steps", "8", "--out", str(tmp_path / "whole")])
    train.main([*words, "--steps", "5", "--out", str(tmp_path / "parts")])
    train.main(["--resume", str(tmp_path / "parts"), "--steps", "8"])
    whole, parts = (
        torch.load(tmp_path / n / "last.pt", weights_only=True)["state"] for n in ("whole", "parts")
    )
    for name in ("k_t", "M_sum", "M_best"):
        assert torch.equal(whole[name], parts[name]), name
    assert all(torch.equal(whole["G"][n], parts["G"][n]) for n in whole["G"])
    rates = [state["opt_D"]["param_groups"][0]["lr"] for state in (whole, parts)]
    assert rates == pytest.approx([0.1 / 8, 0.1 / 8])


# --- networks


def test_thesis_parameter_counts():
    assert count(Generator()) == 3_157_313
    D = Autoencoder()
    assert (
        count(D.encoder) == 11_170_240
    )  # ResNet-18 of one channel without fc: 11,689,512 − 513,000 − 6,272
    assert count(D.decoder) == 6_958_401  # 512·8192 + 8192, then as G
    assert D(torch.zeros(2, 1, 64, 64)).shape == (2, 1, 64, 64)


def test_resnet_encoder_takes_pretrained_weights_but_a_new_first_convolution():
    donor = import_torchvision().models.resnet18(weights=None)
    D = Autoencoder(size=32, width=8, encoder_state=donor.state_dict())
    own = D.encoder.net.state_dict()
    assert torch.equal(own["layer4.1.conv2.weight"], donor.state_dict()["layer4.1.conv2.weight"])
    assert own["conv1.weight"].shape == (64, 1, 7, 7)
    colour = Autoencoder(size=32, channels=3, width=8, encoder_state=donor.state_dict()).encoder.net
    assert not torch.equal(colour.conv1.weight, donor.conv1.weight), (
        "new also where it would fit (§3.1)"
    )


def test_resnet_18_is_torchvisions():
    """The same names and shapes in the same order, the same numbers in both modes, initial weights alike."""
    theirs = import_torchvision().models.resnet18(weights=None)
    theirs.fc = torch.nn.Identity()
    ours = ResNet18()
    shapes = [
        [(name, tensor.shape) for name, tensor in net.state_dict().items()]
        for net in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    for name, tensor in theirs.state_dict().items():
        if "conv" in name or "downsample.0" in name:
            assert ours.state_dict()[name].std().item() == pytest.approx(
                tensor.std().item(), rel=0.1
            ), name
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 3, 40, 40)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_model_copied_alone_builds_its_default_networks(tmp_path):
    """Without torchvision, which beside a CPU torch can't be imported."""
    shutil.copy(train.__file__.replace("train.py", "model.py"), tmp_path / "my_began.py")
    code = (
        "import sys; sys.path += sys.argv[1:]; sys.modules['torchvision'] = None\n"
        "import my_began; print(sum(p.numel() for p in my_began.Autoencoder().parameters()))"
    )
    paths = [path for path in sys.path if "site-packages" in path]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *paths],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == str(11_170_240 + 6_958_401), done.stderr


def test_xavier_initialisation_of_G_and_of_Ds_decoder():
    D = Autoencoder(64, 64, 1, 64, encoder="conv")
    for decoder in (Generator().net, D.decoder):
        conv = decoder[4]  # ConvT 512 -> 256, 4x4: fans 256·16 and 512·16
        assert conv.weight.std().item() == pytest.approx(
            0.02 * math.sqrt(2 / (16 * (256 + 512))), rel=0.02
        )
        assert conv.bias.abs().sum() == 0
    assert count(D) > 0 and D.decoder[-1](T(50.0)) == 1  # tanh


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_berthelot_shapes(size, channels):
    scales = int(math.log2(size // 8)) + 1
    E, Dec = BerthelotEncoder(size, channels, 4, 10), BerthelotDecoder(10, size, channels, 4)
    assert E[-1].in_features == 8 * 8 * 4 * scales  # filters grow linearly: n, 2n, 3n, …
    x = torch.rand(2, channels, size, size)
    assert E(x).shape == (2, 10) and Dec(E(x)).shape == x.shape
    assert (Dec(torch.full((1, 10), 1e4)).abs() > 1).any(), "Berthelot's output is not squashed"


@pytest.mark.parametrize("size, in_all", [(64, 15_121_990), (128, 25_233_222)])
def test_berthelot_parameter_counts_are_the_public_codes(size, in_all):
    """Layer by layer as carpedm20/BEGAN-tensorflow's models.py at 1c234f5; n = 128, N_z = N_h = 64, RGB."""
    n, conv = 128, lambda a, b: 9 * a * b + b
    sides = int(math.log2(size)) - 2  # its repeat_num
    encoder, before = conv(3, n), n
    for side in range(1, sides + 1):
        encoder += conv(before, side * n) + conv(side * n, side * n)
        before = side * n
        if side < sides:
            encoder += conv(before, before)  # stride 2
    encoder += 64 * before * 64 + 64
    decoder = 64 * 64 * n + 64 * n + 2 * sides * conv(n, n) + conv(n, 3)
    D = Autoencoder(64, size, 3, n, "berthelot")
    G = Generator(64, size, 3, n, "berthelot")
    assert [count(D.encoder), count(D.decoder), count(G)] == [encoder, decoder, decoder]
    assert encoder + 2 * decoder == in_all


def test_berthelot_encoder_widens_after_the_strided_convolution():
    strided = [
        conv
        for conv in BerthelotEncoder(32, 1, 4, 10).modules()
        if getattr(conv, "stride", None) == (2, 2)
    ]
    assert [(conv.in_channels, conv.out_channels) for conv in strided] == [(4, 4), (8, 8)]


def test_berthelot_generator_has_the_shape_of_Ds_decoder():
    G, D = Generator(64, 32, 3, 8, "berthelot"), Autoencoder(64, 32, 3, 8, "berthelot", "conv")
    assert [p.shape for p in G.net.parameters()] == [p.shape for p in D.decoder.parameters()]


@pytest.mark.parametrize(
    "net, size", [(BerthelotEncoder, 28), (BerthelotDecoder, 4), (ConvTransposeDecoder, 48)]
)
def test_sizes_that_do_not_halve_are_refused(net, size):
    with pytest.raises(ValueError, match=f"{size} is not"):
        net(size, 1, 4, 8) if net is BerthelotEncoder else net(8, size, 1, 4)


# --- train.py's own rules


def test_defaults_are_the_thesis(capsys):
    args = train.parse_args([])
    thesis = dict(
        dataset="fashion-mnist",
        size=64,
        z_dim=48,
        batch_size=64,
        lr_g=1e-4,
        lr_d=1e-5,
        gamma=0.5,
        lambda_k=0.001,
        target_norm=1,
        steps=8 * 938,
        beta1=0.5,
        width=64,
        arch="thesis",
        encoder="resnet18",
        encoder_weights="imagenet",
        z_dist="normal",
    )
    assert {k: getattr(args, k) for k in thesis} == thesis


def test_presets():
    berthelot = train.parse_args(["--arch", "berthelot"])
    paper = dict(
        width=128,
        z_dim=64,
        code_dim=64,
        batch_size=16,
        lr_g=1e-4,
        lr_d=1e-4,
        z_dist="uniform",
        beta1=0.9,
        gamma=0.5,
        lambda_k=0.001,
        encoder_weights="none",
    )
    assert {k: getattr(berthelot, k) for k in paper} == paper
    quick = train.parse_args(["--quick"])
    ours = dict(
        size=32,
        width=32,
        encoder="conv",
        batch_size=32,
        gamma=0.8,
        lr_g=1e-3,
        lr_d=1e-4,
        steps=5000,
    )
    assert {k: getattr(quick, k) for k in ours} == ours


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--arch berthelot --encoder resnet18", "--encoder resnet18 --arch berthelot: "),
        ("--code-dim 64", "--code-dim 64: .* has 512 .* --encoder conv"),
        ("--smoke --encoder resnet18 --code-dim 16", "--code-dim 16: "),
        ("--encoder conv --encoder-weights x.pth", "--encoder-weights x.pth .* --encoder resnet18"),
        ("--quick --encoder-weights x.pth", "--encoder-weights x.pth"),
    ],
)
def test_flags_of_an_encoder_that_is_not_there_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        train.parse_args(flags.split())


@pytest.mark.parametrize("encoder", ["conv", "resnet18"])
def test_an_older_run_that_ignored_flags_of_an_encoder_goes_on(encoder, tmp_path):
    saved = train.Args(arch="berthelot", encoder=encoder, code_dim=64, encoder_weights="x.pth")
    (tmp_path / "args.json").write_text(json.dumps(vars(saved)))
    args = train.parse_args(["--resume", str(tmp_path)])
    assert vars(args) == vars(saved) | {"resume": str(tmp_path)}


def test_only_resnet_18_has_weights_to_begin_with():
    assert train.parse_args(["--encoder", "conv", "--code-dim", "64"]).encoder_weights == "none"
    for flags in ([], ["--encoder-weights", "x.pth"], ["--quick", "--encoder", "resnet18"]):
        args = train.parse_args(flags)
        assert args.encoder_weights == {0: "imagenet", 2: "x.pth", 3: "none"}[len(flags)]


def test_z_distributions():
    uniform = train.sample_z(2000, train.parse_args(["--z-dist", "uniform"]), step_rng(0, 1))
    normal = train.sample_z(2000, train.parse_args([]), step_rng(0, 1))
    assert abs(uniform.mean()) < 0.02
    assert uniform.abs().max() <= 1 and uniform.std().item() == pytest.approx(
        1 / math.sqrt(3), rel=0.02
    )
    assert normal.std().item() == pytest.approx(1, rel=0.02) and normal.abs().max() > 3


def test_encoder_weights_fall_back_with_one_warning(monkeypatch, capsys):
    def no_network(*a, **k):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nonexistent-torch-hub")
    state, used = pretrained.encoder_weights("imagenet")
    assert state is None and used.startswith("none")
    assert capsys.readouterr().err.count("\n") == 1
    assert pretrained.encoder_weights(used) == (None, used)  # of a run that goes on
    for name in ("no-such-file.pth", "none_v2.pth"):
        with pytest.raises(UserError, match="existing file"):
            pretrained.encoder_weights(name)


def test_encoder_weights_from_a_file(tmp_path):
    path = str(tmp_path / "weights.pth")
    state = ResNet18().state_dict() | {"fc.weight": torch.zeros(1000, 512)}
    torch.save(state, path)
    found, used = pretrained.encoder_weights(path)
    assert used == path and torch.equal(found["conv1.weight"], state["conv1.weight"])
    for wrong in ({"net": 1}, [1, 2], {k: v for k, v in state.items() if k != "bn1.bias"}):
        torch.save(wrong, path)
        with pytest.raises(UserError, match="not a state dict of torchvision's ResNet-18"):
            pretrained.encoder_weights(path)


def test_imagenet_weights_are_torchvisions_default(monkeypatch):
    """The very file that torchvision's ResNet18_Weights.DEFAULT names."""
    asked = []
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda url, **k: asked.append((url, k)) or {}
    )
    assert pretrained.encoder_weights("imagenet") == ({}, "imagenet")
    assert asked[0][0] == import_torchvision().models.ResNet18_Weights.DEFAULT.url
    assert asked[0][1]["check_hash"] and asked[0][1]["weights_only"]


def test_pretrained_weights_are_used_again_by_a_run_killed_before_its_first_checkpoint(
    tmp_path, monkeypatch
):
    used = []
    monkeypatch.setattr(
        train, "encoder_weights", lambda which: (used.append(which), (None, which))[1]
    )
    run = str(tmp_path / "r")
    train.main(
        [
            "--smoke",
            "--encoder",
            "resnet18",
            "--size",
            "32",
            "--encoder-weights",
            "imagenet",
            "--steps",
            "1",
            "--out",
            run,
        ]
    )
    train.main(["--resume", run, "--steps", "2"])
    assert used == ["imagenet"], "a checkpoint brings its own weights"
    (tmp_path / "r/last.pt").unlink()
    train.main(["--resume", run, "--steps", "1"])
    assert used == ["imagenet", "imagenet"]


@pytest.mark.parametrize(
    "M, factor",
    [
        (lambda step: 1.0, 1 / 4),
        (lambda step: 1 / step, 1.0),
        (lambda step: [1, 1, 3, 3, 2, 2][step - 1] / 2, 1 / 4),
    ],
)
def test_learning_rates_halve_when_M_stalls(tmp_path, monkeypatch, M, factor):
    """Windows of 2 in 6 steps: the first sets the mark; a constant M halves at 4 and 6, a falling one never.
    The mark is the lowest so far, so that to fall from a higher one is not enough."""
    step = iter(range(1, 100))
    monkeypatch.setattr(train, "convergence_measure", lambda *a: T(M(next(step))))
    train.main(
        [
            "--smoke",
            "--arch",
            "berthelot",
            "--width",
            "4",
            "--code-dim",
            "8",
            "--lr-d",
            "0.001",
            "--steps",
            "6",
            "--lr-halve-patience",
            "2",
            "--out",
            str(tmp_path / "r"),
        ]
    )
    state = torch.load(tmp_path / "r/last.pt", weights_only=True)["state"]
    assert state["opt_G"]["param_groups"][0]["lr"] == pytest.approx(1e-4 * factor)
    assert state["opt_D"]["param_groups"][0]["lr"] == pytest.approx(1e-3 * factor)


# --- eval.py


def test_slerp():
    a, b = T([[1.0, 0.0]]), T([[0.0, 1.0]])
    assert torch.allclose(began_eval.slerp(a, b, 0.5), T([[0.5, 0.5]]).sqrt(), atol=1e-6)
    assert torch.allclose(began_eval.slerp(a, b, 0.0), a) and torch.allclose(
        began_eval.slerp(a, b, 1.0), b, atol=1e-6
    )
    third = began_eval.slerp(a, b, 1 / 3)  # 30 degrees
    assert torch.allclose(third, T([[math.cos(math.pi / 6), 0.5]]), atol=1e-6)
    assert torch.allclose(began_eval.slerp(a, 2 * a, 0.5), 1.5 * a), "parallel vectors"


def shows_one_number(z):
    """G whose images of one pixel are z's first number."""
    return z[:, :1].view(-1, 1, 1, 1)


def test_each_row_of_the_interpolation_is_one_pair(tmp_path, grids_of):
    """Straight ways, then those along the sphere."""
    drawn = grids_of(began_eval.plots)
    args = train.parse_args(["--z-dim", "2"])
    began_eval.draw_interpolations(shows_one_number, args, EvalArgs(seed=3), CPU, tmp_path)
    z = torch.randn(8, 2, generator=torch.Generator().manual_seed(3))[:, 0]
    rows = drawn[0].view(8, 11)
    assert torch.allclose(rows[:, 0], z[:4].repeat(2), atol=1e-4)
    assert torch.allclose(rows[:, 10], z[4:].repeat(2), atol=1e-4)
    assert torch.allclose(rows[:4, 5], (z[:4] + z[4:]) / 2, atol=1e-4)


def test_reconstructions_stand_below_their_images(tmp_path, grids_of):
    """D halves what it sees."""

    class Half(torch.nn.Module):
        def forward(self, x):
            return x / 2

    def G(z):
        return shows_one_number(z.tanh()).expand(-1, 1, 16, 16)

    drawn = grids_of(began_eval.plots)
    real = train.load_images("synthetic", "none", "test", 16, 1)
    args = train.parse_args([])
    began_eval.draw_samples(G, Half(), args, EvalArgs(), CPU, real, tmp_path)
    samples, rows = drawn
    x, D_x, made, D_made = rows.split(16)
    assert torch.equal(x, real.images_at(torch.arange(16))) and torch.equal(made, samples[:16])
    assert torch.equal(D_x, x / 2) and torch.equal(D_made, made / 2)


def test_bars_of_classes_are_per_cent_of_the_samples(tmp_path, figures_of):
    drawn = figures_of(began_eval.plots)
    metrics = {"class_counts_lenet_4": [3, 1], "class_entropy_lenet_4": 0.5}
    began_eval.draw_classes(metrics, ["a", "b"], tmp_path / "c.png")
    assert [bar.get_height() for bar in drawn[0].axes[0].patches] == [75, 25]


def test_thesis_table_takes_the_last_100_steps_before_step_900_of_each_epoch():
    log = [{"step": s, "M": float(s)} for s in range(20, 1900, 20)]
    rows = thesis_table(log)
    assert [r["epoch"] for r in rows] == [1, 2]
    assert (
        rows[0]["M_ours"] == pytest.approx((820 + 840 + 860 + 880 + 900) / 5)
        and rows[0]["M_thesis"] == 0.2177
    )
    assert rows[1]["M_thesis"] == 0.1383
    assert json.dumps(rows)


@pytest.mark.parametrize(
    "flags, dots",
    [
        ("", dict(L_D=8, L_G=8, k=8, M=8)),
        ("--quick", {}),
        ("--arch berthelot", {}),
        ("--encoder conv", {}),
        ("--dataset mnist", {}),
        ("--size 32", {}),
    ],
)
def test_curves_show_the_thesis_values_where_steps_are_the_same(flags, dots, monkeypatch):
    drawn = []
    monkeypatch.setattr(thesis_log, "curves", lambda *a, points, **k: drawn.append(points))
    thesis_log.draw_curves([], train.parse_args(flags.split()), "curves.png")
    assert {key: len(steps) for key, (steps, _, _) in drawn[0].items()} == dots
    if dots:
        assert drawn[0]["k"][0][1] == 900 + 938 and drawn[0]["k"][1][1] == 0.0660


def test_gamma_sweep_averages_over_seeds_and_goes_on(here):
    flags = ["--jobs", "1", "--n", "90", "--train-flags=--smoke --steps 10", "--out", "X"]
    found = reproduce.main([*flags, "--gammas", "0.9", "0.3", "--seeds", "2"])
    assert {gamma: [r["seed"] for r in results] for gamma, results in found.items()} == {
        0.9: [0, 1],
        0.3: [0, 1],
    }
    first = found[0.3][0]
    checkpoint = load_checkpoint(Path("X/gamma0.3-0/last.pt"), "began")
    assert checkpoint["args"]["gamma"] == 0.3 and checkpoint["args"]["seed"] == 0
    scores = began_eval.main(["--ckpt", "X/gamma0.3-0/last.pt", "--n", "90"])
    assert any(key.startswith("fid_") for key in scores)
    assert scores.items() <= first["metrics"].items()

    fids = [find_metric(r["metrics"], "fid") for r in found[0.3]]
    row = next(x for x in Path("X/gammas.md").read_text().splitlines() if x.startswith("| 0.3 |"))
    assert row.split(" | ")[1:3] == [
        "2",
        f"{sum(fids) / 2:.1f} ± {abs(fids[0] - fids[1]) / 2**0.5:.1f}",
    ]
    assert len(json.loads(Path("X/gammas.json").read_text())) == 4
    before = {path: path.read_bytes() for path in Path("X").glob("*/last.pt")}
    again = lambda: reproduce.main([*flags, "--gammas", "0.9", "0.3", "--seeds", "2"])
    again()
    assert before == {path: path.read_bytes() for path in Path("X").glob("*/last.pt")}
    check_tables_outlive_runs("X", ["gammas.md", "gammas.json"], again)


def test_gamma_sweep_reads_the_balance_from_the_last_tenth_of_the_log():
    log = [{"step": s, "L_x": 1.0, "L_G": s / 100, "M": float(s)} for s in range(1, 101)]
    balance = reproduce.balance(log, 100)
    assert balance == {
        "M_10_steps": pytest.approx(95.5),  # the mean of 91 to 100
        "error_ratio_10_steps": pytest.approx(0.955),
    }
    assert reproduce.values([{"metrics": balance}], "M") == [pytest.approx(95.5)]
    seldom_logged = reproduce.balance(log[:40], 50)  # no line after step 45
    assert seldom_logged["M_5_steps"] == 40


def test_smallest_class_is_a_percentage_and_nan_without_a_classifier():
    seen = {"metrics": {"class_counts_lenet_10k": [500, 9000, 500]}}
    assert reproduce.values([seen], "smallest_class") == [5]
    assert math.isnan(reproduce.values([{"metrics": {}}], "smallest_class")[0])


def test_reduced_gammas_are_runs_of_quick(here, monkeypatch):
    taken = []

    def only_looking(cells, *args):
        taken.extend([cells, args])
        return [{"name": "gamma0.3-0", "error": "no such data"}]

    monkeypatch.setattr(reproduce, "sweep", only_looking)
    with pytest.raises(UserError, match="no run came through: gamma0.3-0: no such data"):
        reproduce.main(["--reduced", "--train-flags=--steps 7"])
    with pytest.raises(UserError):
        reproduce.main(["--reduced", "--gammas", "0.3", "0.5", "0.3"])
    assert len(taken[2]) == 6
    cells, (*_, folder, shared) = taken[:2]
    assert shared == ["--quick", "--steps", "7"] and folder == Path("runs/began/gammas-reduced")
    assert len(cells) == 9 == len({cell["name"] for cell in cells})
    assert train.parse_args([*shared, *cells[1]["flags"]]).gamma == 0.5


def test_class_histogram_figure_and_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.main(["--smoke", "--steps", "2", "--out", "r"])
    metrics = began_eval.main(["--ckpt", "r/last.pt", "--n", "90"])
    counts = find_metric(metrics, "class_counts")
    assert sum(counts) == 90 and len(counts) == 10 and "class_counts_lenet_random_90" in metrics
    assert all("lenet_random_90" in key for key in metrics)
    assert (tmp_path / "r/classes.png").exists()
