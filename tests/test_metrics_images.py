"""Image metrics against closed forms, scipy, pytorch-fid and hand-computed values."""

import re
import hashlib
import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from common.cli import UserError
from common.metrics import images as m
from common.metrics import lenet

DATA = Path(__file__).parent / "data"


def correlated(n, dim, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + shift)


class ImageSet:
    """The part of common.data's image sets that `real_features` uses."""

    def __init__(self, images, name="tiny", split="test"):
        self.images, self.name, self.split = images, name, split
        self.channels, self.size = images.shape[1], images.shape[2]
        self.reads = []

    def __len__(self):
        return len(self.images)

    def images_at(self, index, device):
        self.reads.append(index.tolist())
        return self.images[index].to(device).float() / 127.5 - 1


@pytest.fixture
def tiny_set():
    generator = torch.Generator().manual_seed(1)
    return ImageSet(torch.randint(256, (40, 1, 28, 28), dtype=torch.uint8, generator=generator))


@pytest.fixture(scope="module")
def extractor():
    return m.load_extractor("lenet", "fashion-mnist")


# --- Fréchet distance


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_frechet_closed_form(scale):
    """N(0, I) against N(m, s²I): |m|² + d(1 − s)²; s = 0 is a collapsed generator."""
    mean = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    got = m.frechet_distance(torch.zeros(5), torch.eye(5), mean, scale**2 * torch.eye(5))
    assert got == pytest.approx(14.25 + 5 * (1 - scale) ** 2, rel=1e-12)


def test_frechet_of_itself_is_zero_and_of_two_is_symmetric():
    a, b = m.moments(correlated(400, 16, 0)), m.moments(correlated(300, 16, 1, shift=0.3))
    assert m.frechet_distance(*a, *a) == pytest.approx(0, abs=1e-9)
    assert m.frechet_distance(*a, *b) == pytest.approx(m.frechet_distance(*b, *a), rel=1e-10)
    assert m.frechet_distance(*a, *b) > 1


def test_frechet_is_invariant_under_orthogonal_maps():
    a, b = correlated(400, 12, 0), correlated(300, 12, 1, shift=0.3)
    q = torch.linalg.qr(correlated(12, 12, 2)).Q
    plain = m.frechet_distance(*m.moments(a), *m.moments(b))
    turned = m.frechet_distance(*m.moments(a @ q), *m.moments(b @ q))
    assert turned == pytest.approx(plain, rel=1e-10)
    assert m.frechet_distance(*m.moments(a @ q), *m.moments(b)) > 1.01 * plain  # one set alone: not invariant


def test_frechet_equals_scipy_sqrtm():
    from scipy.linalg import sqrtm

    a, b = correlated(500, 24, 3).numpy(), correlated(400, 24, 4, shift=0.5).numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    got = m.frechet_distance(*m.moments(torch.from_numpy(a)), *m.moments(torch.from_numpy(b)))
    assert got == pytest.approx(expected, rel=1e-6)


def test_moments_accumulate_in_float64():
    """float32 features far from the origin: a float32 covariance would lose the digits that matter."""
    x = (correlated(9000, 6, 5) + 1000).float()  # more than two blocks
    mu, sigma = m.moments(x)
    assert mu.dtype == sigma.dtype == torch.float64
    np.testing.assert_allclose(mu, x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(sigma, np.cov(x.double().numpy(), rowvar=False), rtol=1e-9)


def test_moments_warn_when_the_covariance_is_singular():
    with pytest.warns(UserWarning, match="16 samples of 16 features"):
        m.moments(correlated(16, 16, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.moments(correlated(17, 16, 0))


def test_frechet_refuses_non_finite_features():
    with pytest.raises(ValueError, match="not finite"):
        m.frechet_distance(torch.tensor([float("nan")]), torch.eye(1), torch.zeros(1), torch.eye(1))


# --- KID


def test_kid_by_hand():
    """x = (1), (2); y = (0), (1); D = 1. k = (xy + 1)³:
    k(1,2) = 27; k(0,1) = 1; cross k: (1,0) 1, (1,1) 8, (2,0) 1, (2,1) 27 -> 27 + 1 − 2·37/4 = 9.5."""
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    mean, std = m.kernel_inception_distance(x, y, subsets=3)
    assert mean == pytest.approx(9.5, rel=1e-12)
    assert std == 0  # each subset is the whole set


def test_kid_scales_the_kernel_by_the_dimension():
    """Repeating each feature leaves x·y/D as it was."""
    x, y = correlated(30, 4, 0), correlated(30, 4, 1)
    once = m.kernel_inception_distance(x, y, subsets=2, subset_size=20)
    thrice = m.kernel_inception_distance(x.repeat(1, 3), y.repeat(1, 3), subsets=2, subset_size=20)
    assert thrice == pytest.approx(once)


def test_kid_is_unbiased():
    """Two halves of one distribution: zero on average, where a biased estimate is ≈ 2 E k(x, x) / m."""
    values = []
    for seed in range(40):
        x = torch.randn(100, 8, generator=torch.Generator().manual_seed(seed))
        values.append(m.kernel_inception_distance(x[:50], x[50:], subsets=1)[0])
    biased_excess = 2 * (2**3 - 1) / 50
    assert abs(np.mean(values)) < 4 * np.std(values) / 40**0.5
    assert abs(np.mean(values)) < biased_excess / 4
    assert min(values) < 0


def test_kid_subsets_are_seeded():
    x, y = correlated(60, 4, 0), correlated(60, 4, 1)
    kid = [m.kernel_inception_distance(x, y, subsets=5, subset_size=20, seed=s) for s in (0, 0, 1)]
    assert kid[0] == kid[1] != kid[2]
    assert kid[0][1] > 0


def test_kid_subsets_are_drawn_from_the_whole_of_both_sets():
    x = correlated(40, 4, 0)
    sorted_set = torch.cat([x, x + 5])  # its first half is x, its second is not
    for pair in ((x, sorted_set), (sorted_set, x)):
        assert m.kernel_inception_distance(*pair, subsets=5, subset_size=40)[0] > 10


# --- Inception score, classes


def test_inception_score_bounds():
    assert m.inception_score(torch.zeros(50, 7))[0] == pytest.approx(1, rel=1e-12)
    one_hot = 1000 * torch.eye(7).repeat(10, 1)
    assert m.inception_score(one_hot)[0] == pytest.approx(7, rel=1e-12)
    assert m.inception_score(one_hot[:1].repeat(50, 1))[0] == pytest.approx(1, rel=1e-12)  # one class


def test_inception_score_by_hand():
    """p = (.9, .1), (.3, .7); p(y) = (.6, .4); KL = (.9 ln 1.5 + .1 ln .25 + .3 ln .5 + .7 ln 1.75) / 2."""
    logits = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64).log() + 5  # a shift is no change
    expected = np.exp((0.9 * np.log(1.5) + 0.1 * np.log(0.25) + 0.3 * np.log(0.5) + 0.7 * np.log(1.75)) / 2)
    assert m.inception_score(logits) == (pytest.approx(expected, rel=1e-12), 0.0)


def test_inception_score_of_one_split_is_free_of_order():
    logits = 1000 * torch.eye(4).repeat_interleave(5, 0)  # sorted by class
    shuffled = logits[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    assert m.inception_score(logits)[0] == pytest.approx(m.inception_score(shuffled)[0], rel=1e-12)
    assert m.inception_score(logits, splits=4)[0] == pytest.approx(1)  # each split sees one class: the trap
    assert m.inception_score(shuffled, splits=2)[1] >= 0


def test_class_histogram():
    logits = torch.zeros(200, 5)
    labels = torch.tensor([0] * 150 + [1] * 47 + [2] * 2 + [3])  # 2 of 200 is 1 %: covered; 1 of 200 is not
    logits[torch.arange(200), labels] = 1
    got = m.class_histogram(logits)
    assert got["counts"] == [150, 47, 2, 1, 0]
    shares = np.array([150, 47, 2, 1]) / 200
    assert got["entropy"] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
    assert got["coverage"] == pytest.approx(3 / 5)


# --- precision and recall


def test_precision_recall_of_identical_and_disjoint_sets():
    x = correlated(200, 8, 0)
    assert m.precision_recall(x, x) == (1.0, 1.0)
    assert m.precision_recall(x, x + 1000) == (0.0, 0.0)


def test_precision_recall_of_a_collapsed_generator():
    real = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    fake = 0.05 * torch.randn(500, 2, generator=torch.Generator().manual_seed(1))  # all at the densest point
    precision, recall = m.precision_recall(real, fake)
    assert precision == 1.0
    assert recall < 0.05
    assert m.precision_recall(fake, real) == (recall, precision)


def test_precision_recall_by_hand():
    """k = 1, on a line. Reals 0 1 3: radii 1 1 2. Fakes 1.5 6 9: in the balls of 1 and 3; not; not -> 1/3.
    Radii of the fakes 4.5 3 3: 1.5 ± 4.5 holds 0, 1 and 3 -> 1.
    k = 2: the reals' radii 3 2 3, 3 ± 3 holds 6 -> 2/3."""
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[1.5], [6.0], [9.0]])
    assert m.precision_recall(real, fake, k=1) == (pytest.approx(1 / 3), 1.0)
    assert m.precision_recall(real, fake, k=2) == (pytest.approx(2 / 3), 1.0)
    with pytest.raises(ValueError, match="more than k = 3"):
        m.precision_recall(real, fake)


def test_precision_recall_of_repeated_images():
    """Balls of radius 0 still hold their twins, whatever the rounding."""
    x = 100 + torch.rand(5, 64, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 0)
    assert m.precision_recall(x, x.flip(0)) == (1.0, 1.0)


def test_precision_recall_in_blocks_equals_direct():
    real, fake = correlated(1500, 6, 0), correlated(1100, 6, 0, shift=1.0)  # more than one block of 1024
    d_rr, d_ff, d_rf = torch.cdist(real, real), torch.cdist(fake, fake), torch.cdist(real, fake)
    r_real, r_fake = (d.sort(1).values[:, 3] for d in (d_rr, d_ff))  # column 0 is the point itself
    expected = ((d_rf <= r_real[:, None]).any(0).double().mean(), (d_rf <= r_fake).any(1).double().mean())
    assert m.precision_recall(real, fake) == pytest.approx([x.item() for x in expected], abs=1e-12)


# --- features


def test_collect_streams(extractor):
    images = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked = []

    def batches():
        for i in range(0, 50, 8):
            asked.append(i)
            yield images[i:i + 8]

    features, logits = m.collect(extractor, [images])
    assert features.shape == (50, extractor.dim) and logits.shape == (50, 10)
    assert features.dtype == logits.dtype == torch.float32
    for got, whole in zip(m.collect(extractor, batches(), n=20), (features, logits), strict=True):
        torch.testing.assert_close(got, whole[:20], rtol=1e-5, atol=1e-5)
    assert asked == [0, 8, 16]  # no batch is drawn beyond the n-th image
    torch.testing.assert_close(m.collect(extractor, batches())[0], features, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="60 images are needed, but the batches held 50"):
        m.collect(extractor, batches(), n=60)


def test_collect_changes_nothing_and_keeps_no_graph():
    net = lenet.LeNet().train()  # unlike those of load_extractor, neither frozen nor in eval mode
    features, logits = m.collect(net, [torch.rand(8, 1, 28, 28)])
    assert torch.equal(net.bn1.running_mean, torch.zeros(8))
    assert not features.requires_grad and not logits.requires_grad


def test_lenet_takes_other_sizes_and_channels(extractor):
    grey = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = extractor(grey)[0]
    torch.testing.assert_close(extractor(grey.expand(-1, 3, -1, -1))[0], plain, rtol=1e-4, atol=1e-5)
    enlarged = grey.repeat_interleave(2, 2).repeat_interleave(2, 3)  # mostly undone by the resizing
    assert (extractor(enlarged)[0] - plain).norm() < 0.5 * plain.norm()
    flat, stripes = torch.zeros(1, 1, 28, 28), (-1.0) ** torch.arange(140).expand(1, 1, 140, 140)
    aliased = extractor(stripes[..., :28, :28])[0] - extractor(flat)[0]  # what every fifth pixel would show
    assert (extractor(stripes)[0] - extractor(flat)[0]).norm() < 0.5 * aliased.norm()
    colour = lenet.LeNet(channels=3, size=32)
    features, logits = colour(grey)
    assert features.shape == (4, 64) and logits.shape == (4, 10) and features.min() >= 0
    assert 70_000 < sum(p.numel() for p in extractor.parameters()) < 110_000
    with pytest.raises(ValueError, match="1 or 3 channels"):
        extractor(torch.zeros(2, 28, 28))


def test_shipped_lenet_is_accurate(extractor):
    """On real FashionMNIST test images; the file's own figure is of all 10,000."""
    saved = torch.load(Path(m.__file__).parent / "weights" / "lenet_fashion-mnist.pt", weights_only=True)
    assert saved["meta"]["dataset"] == "fashion-mnist" and saved["meta"]["accuracy"] >= 0.91
    data = np.load(DATA / "fashion_mnist_test_1000.npz")
    images = torch.from_numpy(data["images"])[:, None].float() / 127.5 - 1
    _, logits = m.collect(extractor, images.split(250))
    right = logits.argmax(1) == torch.from_numpy(data["labels"].astype(np.int64))
    assert right.double().mean() >= 0.91
    assert extractor.name == "lenet" and not extractor.training


def test_lenet_distance_ranks_damage(extractor):
    """The shipped scale: halves of real data < blurred < noise."""
    pixels = np.load(DATA / "fashion_mnist_test_1000.npz")["images"]
    real = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    noise = torch.rand(500, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def distance(fake):
        a, b = (m.moments(m.collect(extractor, [images])[0]) for images in (real[:500], fake))
        return m.frechet_distance(*a, *b)

    same, blur, nothing = distance(real[500:]), distance(blurred[500:]), distance(noise)
    assert 5 * same < blur and 5 * blur < nothing


def test_real_features_are_cached(extractor, tiny_set, tmp_path):
    first = m.real_features(extractor, tiny_set, cache_dir=tmp_path, batch_size=16)
    assert [len(r) for r in tiny_set.reads[1:]] == [16, 16, 8]  # reads[0] is the probe for the file's name
    assert [i for read in tiny_set.reads[1:] for i in read] == list(range(40))
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("lenet-") and path.name.endswith("_n40_seed0.pt")
    assert "_tiny-test-1x28-" in path.name
    assert set(torch.load(path, weights_only=True)) == {"features", "logits"}
    tiny_set.reads.clear()
    second = m.real_features(extractor, tiny_set, cache_dir=tmp_path)
    assert len(tiny_set.reads) == 1  # the probe alone
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_real_features_cache_key(extractor, tiny_set, tmp_path):
    """Whatever changes the result changes the file: weights, split, n, seed, the images themselves."""
    other = m.load_extractor("lenet", "fashion-mnist")
    other.conv1.weight[0, 0, 0, 0] += 1e-3
    edited = tiny_set.images.clone()
    edited[0, 0, 3, 3] ^= 1
    calls = [(extractor, tiny_set, {}), (other, tiny_set, {}), (extractor, tiny_set, {"n": 10}),
             (extractor, tiny_set, {"n": 10, "seed": 1}),
             (extractor, ImageSet(tiny_set.images, split="train"), {}),
             (extractor, ImageSet(edited), {}), (extractor, ImageSet(tiny_set.images[:, :, :14, :14]), {}),
             (m.load_extractor("lenet", "synthetic"), tiny_set, {})]
    for made, (net, image_set, options) in enumerate(calls, start=1):
        m.real_features(net, image_set, cache_dir=tmp_path, **options)
        assert len(list(tmp_path.iterdir())) == made


def test_real_features_of_a_random_subset(extractor, tiny_set):
    a, b, c = (m.real_features(extractor, tiny_set, n=10, seed=s)[0] for s in (0, 0, 1))
    assert len(a) == 10 and torch.equal(a, b) and not torch.equal(a, c)
    assert tiny_set.reads[0] != list(range(10))  # a class-sorted folder must not give one class
    assert len(set(tiny_set.reads[0])) == 10
    assert len(m.real_features(extractor, tiny_set, n=99)[0]) == 40


def test_damaged_cache_is_computed_again(extractor, tiny_set, tmp_path):
    first = m.real_features(extractor, tiny_set, cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(UserWarning, match="damaged"):
        second = m.real_features(extractor, tiny_set, cache_dir=tmp_path)
    assert torch.equal(first[0], second[0])
    assert len(torch.load(path, weights_only=True)["features"]) == 40
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


# --- keys


def test_image_metrics_keys_and_values():
    real = correlated(600, 4, 0).float(), torch.randn(600, 10)
    fake = correlated(500, 4, 0, shift=0.2).float(), torch.randn(500, 10)
    got = m.image_metrics(real, fake, "lenet", "test", kid_subsets=4)
    assert set(got) == {"fid_lenet_500_test", "kid_lenet_500_test", "kid_std_lenet_500_test", "is_lenet_500",
                        "precision_lenet_500_test", "recall_lenet_500_test"}
    assert all(type(v) is float for v in got.values())
    assert got["fid_lenet_500_test"] == m.frechet_distance(*m.moments(real[0]), *m.moments(fake[0]))
    kid = m.kernel_inception_distance(real[0], fake[0], 4)
    assert (got["kid_lenet_500_test"], got["kid_std_lenet_500_test"]) == kid
    assert got["is_lenet_500"] == m.inception_score(fake[1])[0]
    precision, recall = m.precision_recall(real[0], fake[0])  # order-free, so equal after the shuffle
    shuffled = got["precision_lenet_500_test"], got["recall_lenet_500_test"]
    assert shuffled == pytest.approx((precision, recall))
    capped = m.image_metrics(real, fake, "lenet", "train", kid_subsets=1, max_neighbours=100)
    assert {"fid_lenet_500_train", "precision_lenet_100_train", "recall_lenet_100_train"} < set(capped)


def test_tracker_scores_as_image_metrics_do(tiny_set, tmp_path):
    real = tiny_set.images_at(torch.arange(len(tiny_set)), "cpu")
    track = m.Tracker(tiny_set, "fashion-mnist", data_dir=tmp_path)
    fake = torch.rand(130, 1, 28, 28, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with pytest.warns(UserWarning):                     # fewer images than features
        whole = m.image_metrics(m.collect(track.extractor, [real]), m.collect(track.extractor, [fake[:120]]),
                                track.extractor.name, tiny_set.split, kid_subsets=1)
    got = track(fake.split(50), 120)
    assert len(got) == 2 and all(got[key] == pytest.approx(whole[key], rel=1e-6) for key in got)


@pytest.mark.parametrize("n, text", [(10_000, "10k"), (5000, "5k"), (500, "500"), (2500, "2.5k"),
                                     (50_000, "50k"), (1000, "1k"), (999, "999"), (1234, "1234"),
                                     (10_016, "10016"), (60_000, "60k")])
def test_counts_in_keys(n, text):
    assert m.count_tag(n) == text


# --- weights


def test_loading_draws_no_random_numbers():
    """A run that scores itself on the way must train as one that does not."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a = m.load_extractor("lenet", "synthetic")
    m.load_extractor("lenet", "fashion-mnist")
    m._build(m.InceptionTF)
    assert torch.equal(torch.get_rng_state(), state)
    b = m.load_extractor("lenet", "synthetic")
    assert a.name == "lenet_random"
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    x = torch.rand(6, 1, 28, 28)
    assert a(x)[0].std(0).count_nonzero() > 30 and not any(p.requires_grad for p in a.parameters())


def test_missing_lenet_weights_say_how_to_train_them(tmp_path):
    with pytest.raises(UserError) as e:
        m.load_extractor("lenet", "cifar10", data_dir=tmp_path)
    assert "python -m common.metrics.lenet --dataset cifar10" in str(e.value)
    assert str(tmp_path / "lenet_cifar10.pt") in str(e.value) and "\n" not in str(e.value)


def test_trained_lenet_is_read_from_the_data_directory(tmp_path):
    net = lenet.LeNet(channels=3, size=32, classes=7)
    meta = {"channels": 3, "size": 32, "classes": 7}
    torch.save({"state_dict": net.state_dict(), "meta": meta}, tmp_path / "lenet_other.pt")
    x = torch.rand(5, 3, 32, 32)
    own = m.load_extractor("lenet", "other", data_dir=tmp_path)
    torch.testing.assert_close(own(x)[1], net.eval()(x)[1])
    assert re.fullmatch("lenet_[0-9a-f]{8}", own.name)           # not the shipped network: another metric, another key
    torch.save({"state_dict": net.state_dict(), "meta": meta | {"size": 28}}, tmp_path / "lenet_foreign.pt")
    torch.save([1, 2], tmp_path / "lenet_list.pt")
    (tmp_path / "lenet_cut.pt").write_bytes((tmp_path / "lenet_other.pt").read_bytes()[:1000])
    for name in ("foreign", "list", "cut"):
        with pytest.raises(UserError, match=f"lenet_{name}.pt"):
            m.load_extractor("lenet", name, data_dir=tmp_path)


def test_missing_inception_weights_say_what_to_do(tmp_path, monkeypatch):
    def no_network(url, timeout):
        assert url == m.INCEPTION_URL and timeout <= 10
        raise OSError("no route to host")

    monkeypatch.setattr(m.urllib.request, "urlopen", no_network)
    for download in (True, False):
        with pytest.raises(UserError) as e:
            m.load_extractor("inception", "fashion-mnist", data_dir=tmp_path / "data", download=download)
        for part in (m.INCEPTION_URL, str(tmp_path / "data" / m.INCEPTION_FILE), "--inception-weights"):
            assert part in str(e.value)
        assert "\n" not in str(e.value) and ("no route" in str(e.value)) == download
    with pytest.raises(UserError, match="no such file"):
        m.load_extractor("inception", "fashion-mnist", inception_weights=tmp_path / "none.pth")


def test_download_is_checked_and_atomic(tmp_path, monkeypatch):
    blob = os.urandom(3_000_000)
    source = tmp_path / "source"
    source.write_bytes(blob)
    monkeypatch.setattr(m.urllib.request, "urlopen", lambda url, timeout: source.open("rb"))
    path = tmp_path / "data" / m.INCEPTION_FILE
    with pytest.raises(UserError, match="sha256 differs"):
        m._download_inception(path, True)
    assert list(path.parent.iterdir()) == []
    monkeypatch.setattr(m, "INCEPTION_SHA256", hashlib.sha256(blob).hexdigest())
    m._download_inception(path, True)
    assert path.read_bytes() == blob and len(list(path.parent.iterdir())) == 1
    path.write_bytes(blob[:1000])  # damaged later
    with pytest.raises(UserError, match="is damaged .its sha256"):
        m.load_extractor("inception", "fashion-mnist", data_dir=path.parent)


def test_inception_sha256_agrees_with_the_file_name():
    assert len(m.INCEPTION_SHA256) == 64 and m.INCEPTION_FILE.endswith(f"-{m.INCEPTION_SHA256[:8]}.pth")


# --- Inception


def test_inception_equals_pytorch_fid(tmp_path, monkeypatch):
    """Random weights and BatchNorm statistics in pytorch-fid's network, saved as a file, read by ours."""
    from common.device import import_torchvision

    import_torchvision()  # pytorch-fid imports it, and beside some builds of torch that fails
    inception = pytest.importorskip("pytorch_fid.inception", reason="pip install --no-deps pytorch-fid")
    generator = torch.Generator().manual_seed(0)
    saved = {}

    def random_weights(url, progress=True):
        net = sys._getframe(1).f_locals["inception"]  # fid_inception_v3, patched but for the weights
        for key, value in net.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif key.endswith("bn.weight"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif key.endswith(("running_mean", "bias")):
                value.normal_(0, 0.2, generator=generator)
            elif value.ndim:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        saved.update(net.state_dict())
        return net.state_dict()

    monkeypatch.setattr(inception, "load_state_dict_from_url", random_weights)
    reference = inception.InceptionV3().eval()
    torch.save(saved, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="not the FID weights"):
        ours = m.load_extractor("inception", "any", inception_weights=tmp_path / "weights.pth")
    assert ours.name.startswith("inception_") and ours.name != "inception_tf"  # other weights, other key
    assert m.InceptionTF.__init__.__defaults__ == ("inception_tf",)

    images = torch.rand(2, 3, 48, 40, generator=generator)
    with torch.no_grad():
        expected = reference(images)[0].flatten(1)
        features, logits = ours(2 * images - 1)
        grey = ours(2 * images[:, :1] - 1)[0]
        expected_grey = reference(images[:, :1].expand(-1, 3, -1, -1))[0].flatten(1)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    assert expected.std() > 0.05  # the comparison is of something
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grey, expected_grey, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, features @ saved["fc.weight"].T, rtol=1e-4, atol=1e-4)


# --- the script that trains the LeNet


def labelled_set(n, seed):
    """Two classes that a classifier can tell: bright above, bright below."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    images = torch.randint(128, (n, 1, 28, 28), dtype=torch.uint8, generator=generator)
    images[labels == 0, :, :14] += 100
    images[labels == 1, :, 14:] += 100
    result = ImageSet(images)
    result.labels = labels
    return result


def test_training_script(tmp_path, monkeypatch, capsys):
    data = types.ModuleType("common.data")
    sets = {"train": labelled_set(256, 0), "test": labelled_set(64, 1)}
    data.load_images = lambda name, data_dir, split, size: sets[split]
    monkeypatch.setitem(sys.modules, "common.data", data)
    argv = ["--dataset", "two", "--data-dir", str(tmp_path), "--epochs", "4", "--batch-size", "32"]
    meta = lenet.main(argv)
    assert "test accuracy" in capsys.readouterr().out and meta["accuracy"] > 0.9
    net = m.load_extractor("lenet", "two", data_dir=tmp_path)  # it was written where this looks
    assert net.classes == 2
    assert lenet.accuracy(net.train(), sets["test"]) == meta["accuracy"] and not net.training
    lenet.main([*argv, "--out", str(tmp_path / "again.pt")])
    a, b = (torch.load(tmp_path / f, weights_only=True)["state_dict"] for f in ("lenet_two.pt", "again.pt"))
    assert all(torch.equal(a[k], b[k]) for k in a)  # one seed, one result
    data.load_images = lambda *args, **kwargs: types.SimpleNamespace(labels=None)
    with pytest.raises(UserError, match="no class labels"):
        lenet.main(argv)


def test_shifted():
    image = torch.full((1, 1, 7, 8), -1.0)
    image[0, 0, 3, 4], image[0, 0, 0, 7] = 1.0, 0.5  # one pixel within, one in a corner
    many = lenet.shifted(image.expand(300, -1, -1, -1), torch.Generator().manual_seed(0))
    assert many.shape == (300, 1, 7, 8)
    places = {tuple(i) for i in (many[:, 0] == 1).nonzero()[:, 1:].tolist()}
    assert places == {(r, c) for r in (2, 3, 4) for c in (3, 4, 5)}
    kept = (many == 0.5).flatten(1).sum(1)
    assert set(kept.tolist()) == {0, 1}  # it leaves, and nothing comes in on the other side
    assert ((many == -1).flatten(1).sum(1) == 55 - kept).all()
