"""PAN's pairs: what tasks do to images, files, batches as a function of (seed, step), bad input."""

import io
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.cli import UserError
from common.data import load_images
from pan import pairs as pairs_module
from pan.pairs import (
    Pix2pixSet,
    crop_and_flip,
    generator,
    load_pairs,
    read_image,
    wrong_count,
)
from pan.tasks import TASKS, centre, overlap, paste, streaks


def generators(n, seed=0):
    return [generator(seed, i) for i in range(n)]


@pytest.fixture(scope="module")
def clean():
    return load_images("synthetic", "", size=64, channels=3).images_at(torch.arange(12))


# --- tasks


@pytest.mark.parametrize("name", TASKS)
def test_a_task_keeps_range_and_channels_and_does_not_change_the_truth(name, clean):
    before = clean.clone()
    for images in (clean, clean[:, :1]):
        x, y = TASKS[name].make(images, generators(12))
        assert x.shape == images.shape and x.dtype == torch.float32
        assert x.min() >= -1 and x.max() <= 1
        assert torch.equal(y, centre(images) if name == "inpainting" else images)
    assert torch.equal(clean, before)


@pytest.mark.parametrize("name", ["deraining", "denoising"])
def test_what_is_drawn_for_an_image_depends_on_its_generator_alone(name, clean):
    together, _ = TASKS[name].make(clean, generators(12))
    alone, _ = TASKS[name].make(clean[5:6], generators(12)[5:6])
    assert torch.allclose(together[5:6], alone, atol=1e-5)
    other, _ = TASKS[name].make(clean, generators(12, seed=1))
    assert (other - together).abs().mean() > 0.02


def test_the_hole_has_the_authors_size_fill_and_overlap():
    clean = torch.rand(2, 3, 128, 128) * 2 - 1
    x, y = TASKS["inpainting"].make(clean, generators(2))
    assert overlap(128) == 4 and y.shape == (2, 3, 64, 64)
    changed = (x != clean).any(1)
    assert changed[:, 36:92, 36:92].all() and changed.sum() == 2 * 56 * 56
    assert (x[:, :, 64, 64] * 127.5 + 127.5).round().tolist() == [[117, 104, 123]] * 2
    assert torch.equal(paste(x, y), clean)
    x, y = TASKS["inpainting"].make(clean[:, :1, :64, :64], generators(2))
    assert y.shape == (2, 1, 32, 32) and (x != clean[:, :1, :64, :64]).sum() == 2 * 28 * 28
    assert x[0, 0, 32, 32].item() * 127.5 + 127.5 == pytest.approx(110.05, abs=0.01)


def test_rain_is_streaks_near_the_vertical_and_only_adds_light():
    clean = torch.full((32, 1, 64, 64), -0.5)
    x, _ = TASKS["deraining"].make(clean, generators(32))
    assert (x >= clean - 1e-5).all()
    rain = streaks(clean, generators(32))
    wet = (rain > 0.3).float().mean((1, 2, 3))
    assert wet.min() > 0 and wet.max() < 0.6 and wet.max() > 3 * wet.min(), "drizzle to downpour"
    down = (rain[:, :, 1:] - rain[:, :, :-1]).abs().mean((1, 2, 3))
    right = (rain[..., 1:] - rain[..., :-1]).abs().mean((1, 2, 3))
    assert (right > 1.3 * down).all(), "brightness changes across a streak, hardly along it"


def test_streaks_have_lengths_and_directions_of_their_own():
    """Second moments of each image's autocorrelation, the streak's own shape."""
    rain = streaks(torch.zeros(40, 1, 128, 128), generators(40))[:, 0]
    power = torch.fft.rfft2(rain - rain.mean((1, 2), keepdim=True)).abs() ** 2
    shape = torch.fft.irfft2(power).clamp(min=0)
    shape = torch.where(shape > 0.3 * shape.amax((1, 2), keepdim=True), shape, 0)
    place = torch.fft.fftfreq(128, 1 / 128)
    total = shape.sum((1, 2))
    down = (shape * place[:, None] ** 2).sum((1, 2)) / total
    cross = (shape * place[:, None] * place).sum((1, 2)) / total
    angle = torch.atan2(cross, down)
    assert angle.min() < -0.2 and angle.max() > 0.2 and angle.abs().max() < 0.6
    length = down.sqrt()
    assert length.max() > 1.6 * length.min()


def test_edges_are_where_brightness_changes():
    clean = torch.full((1, 3, 32, 32), -1.0)
    clean[..., 16:] = 1.0
    x, _ = TASKS["edges"].make(clean, generators(1))
    black = (x == -1).all(1)[0]
    assert (x.abs() == 1).all()
    assert black[:, 15:17].any(1).all() and black.sum() <= 64 and not black[:, :14].any()
    flat, _ = TASKS["edges"].make(clean * 0, generators(1))
    assert (flat == 1).all()


def test_super_resolution_noise_and_colour(clean):
    for period, kept in ((6, False), (16, True)):
        wave = torch.sin(torch.arange(64) * 2 * torch.pi / period).expand(1, 1, 64, 64)
        x, _ = TASKS["super-resolution"].make(wave, generators(1))
        share = (x.std() / wave.std()).item()
        assert share > 0.6 if kept else share < 0.3, "below two pixels of a quarter's is lost"
    x, _ = TASKS["denoising"].make(torch.zeros(4, 3, 64, 64), generators(4))
    assert (x.std() * 127.5).item() == pytest.approx(25, rel=0.03)
    x, _ = TASKS["colourisation"].make(clean, generators(12))
    assert torch.equal(x[:, 0], x[:, 2])
    expected = 0.299 * clean[:, 0] + 0.587 * clean[:, 1] + 0.114 * clean[:, 2]
    assert torch.allclose(x[:, 0], expected, atol=1e-6)


# --- batches


def test_crop_and_flip_do_the_same_to_x_and_y():
    x = torch.rand(200, 1, 10, 10)
    a, b = crop_and_flip([x, 2 * x], 8, True, generators(200))
    assert a.shape == (200, 1, 8, 8) and torch.equal(2 * a, b)
    kinds = set()
    for crop, image in zip(a, x):
        for top in range(3):
            for left in range(3):
                window = image[:, top : top + 8, left : left + 8]
                kinds |= {
                    (top, left, turned)
                    for turned in (0, 1)
                    if torch.equal(crop, window.flip(-1) if turned else window)
                }
    assert len(kinds) == 18, "each of nine places, mirrored or not"
    same, _ = crop_and_flip([x, x], 10, False, generators(200))
    assert torch.equal(same, x)


@pytest.mark.parametrize("task", ["deraining", "inpainting"])
def test_batches_are_a_function_of_seed_and_step(task):
    def batch(step, seed):
        return load_pairs(task, "synthetic", "", size=64).batch(step, 5, seed)

    for again, first in zip(batch(3, 0), batch(3, 0)):
        assert torch.equal(again, first)
    x = batch(3, 0)[0]
    for step, seed in ((4, 0), (3, 1), (3, -1)):
        assert not torch.equal(batch(step, seed)[0], x)
    assert not torch.equal(batch(3, 1)[0], batch(3, -1)[0])


def test_rain_is_new_in_each_epoch_and_the_same_in_each_test():
    pairs = load_pairs("deraining", "synthetic", "", "test", size=64)
    x, y = pairs.pairs_at(range(10))
    assert torch.equal(y, pairs.images.images_at(torch.arange(10)))
    some, _ = pairs.pairs_at([7, 2])
    assert torch.allclose(some, x[[7, 2]], atol=1e-5)
    assert (pairs.pairs_at(range(10), seed=1)[0] - x).abs().mean() > 0.02
    few = load_pairs("deraining", "synthetic", "", size=64, jitter=False, flip=False, limit=2)
    (x1, y1), (x2, y2) = few.batch(0, 2, 0), few.batch(1, 2, 0)
    order = [0, 1] if torch.equal(y1, y2) else [1, 0]
    assert torch.equal(y1, y2[order]) and not torch.equal(x1, x2[order])
    one = load_pairs("deraining", "synthetic", "", size=64, jitter=False, flip=False, limit=1)
    assert not torch.equal(one.batch(0, 1, 0)[0], one.batch(0, 1, 1)[0]), "another seed, other rain"


def test_each_image_has_noise_of_its_own():
    x, y = load_pairs("denoising", "synthetic", "", "test", size=64).pairs_at([0, 1])
    noise = (x - y).flatten(1)
    assert torch.corrcoef(noise)[0, 1].abs() < 0.3


def test_generators_differ_by_every_number_and_its_sign():
    keys = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, 2))
    assert len({generator(*key).initial_seed() for key in keys}) == 6


def test_only_training_is_jittered():
    train = load_pairs("denoising", "synthetic", "", size=64)
    assert train.load_size == 72 and train.flip
    assert train.batch(0, 2, 0)[0].shape == train.pairs_at([0, 1])[0].shape == (2, 1, 64, 64)
    test = load_pairs("denoising", "synthetic", "", "test", size=64)
    assert test.load_size == 64 and not test.flip


# --- files


def draw(file, width=20, height=16, shade=0, mode="RGB"):
    """A picture whose brightness says which one it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), shade, np.uint8)).convert(mode).save(file)


def draw_side_by_side(folder, n, size=16):
    """A is black with a white left column, B is of brightness 10 i."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = np.zeros((size, 2 * size, 3), np.uint8)
        pixels[:, 0] = 255
        pixels[:, size:] = 10 * i
        Image.fromarray(pixels).save(folder / f"{i:03}.png")


def brightness(images):
    return ((images.mean((1, 2, 3)) + 1) * 127.5).round().int().tolist()


def load(folder, split="train", size=16, **more):
    return load_pairs("pairs", "folder", folder, split, size, **more)


def test_side_by_side_files_in_both_directions(tmp_path):
    draw_side_by_side(tmp_path, 20)
    test = load(tmp_path, "test")
    x, y = test.pairs_at([0, 1])
    assert x.shape == (2, 3, 16, 16) and len(test) == 2 and len(load(tmp_path)) == 18
    assert brightness(y) == [90, 190], "every tenth pair is held out"
    assert (x[..., 0] == 1).all() and (x[..., 1:] == -1).all()
    back_x, back_y = load(tmp_path, "test", direction="BtoA").pairs_at([0, 1])
    assert torch.equal(back_x, y) and torch.equal(back_y, x)


def test_that_files_are_cut_in_half_is_said(tmp_path, capsys):
    """Else who gives single images would train T to make right halves of left ones."""
    draw_side_by_side(tmp_path / "one", 3)
    load(tmp_path / "one")
    load(tmp_path / "one", "test")
    line = (
        f"data: {tmp_path / 'one'}: each file is cut into A, its left half, and B, its right half"
    )
    assert capsys.readouterr().err.count(line) == 1
    for side in "AB":
        draw(tmp_path / "two" / side / "1.png")
        draw(tmp_path / "two" / side / "2.png")
    load(tmp_path / "two")
    assert "cut" not in capsys.readouterr().err


def test_flips_are_the_same_for_both_halves(tmp_path):
    for i in range(2):
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:, [0, 16]] = 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    x, y = load(tmp_path, jitter=False).batch(0, 32, 0)
    assert torch.equal(x, y)
    assert 4 < (x[:, 0, 0, 0] == 1).sum() < 28


@pytest.mark.parametrize("layout", ["A/train", "train/A", "A"])
def test_two_folders_with_the_same_names(tmp_path, layout):
    for split, shade in (("train", 30), ("val", 90)):
        for side in "AB":
            folder = tmp_path / layout.replace("train", split).replace("A", side)
            for i in range(3):
                draw(
                    folder / f"{split}{i}{'.png' if side == 'A' else '.bmp'}",
                    shade=shade + 10 * (side == "B") + i,
                )
    train, test = load(tmp_path), load(tmp_path, "test")
    shades = (
        sorted(brightness(train.pairs_at(range(len(train)))[0])),
        sorted(brightness(test.pairs_at(range(len(test)))[0])),
    )
    assert shades == (
        ([30, 31, 32, 90, 91], [92]) if layout == "A" else ([30, 31, 32], [90, 91, 92])
    )
    x, y = test.pairs_at([0])
    assert brightness(y)[0] == brightness(x)[0] + 10


@pytest.mark.parametrize(
    "train, test",
    [
        ("Train", "Test"),
        ("training", "validation"),
        ("train", "Valid"),
        ("TRAIN/A", "TEST/A"),
        ("A/Train", "A/Val"),
        ("a/training", "a/testing"),
    ],
)
def test_splits_are_found_under_all_their_names(tmp_path, train, test):
    for folder in (train, test):
        partners = "/".join({"A": "B", "a": "b"}.get(part, part) for part in folder.split("/"))
        for i in range(3):
            draw(tmp_path / folder / f"{i}.png")
            draw(tmp_path / partners / f"{i}.png")
    for split, folder in (("train", train), ("test", test)):
        files = load(tmp_path, split).files
        assert [a for a, _ in files] == [tmp_path / folder / f"{i}.png" for i in range(3)]
        assert all((b is None) == ("/" not in folder) for _, b in files)


def test_large_sets_are_decoded_a_batch_at_a_time(tmp_path, monkeypatch):
    draw_side_by_side(tmp_path, 12)
    kept = load(tmp_path).batch(1, 4, 0)
    monkeypatch.setattr(pairs_module, "IN_MEMORY", 0)
    lazy = load(tmp_path)
    assert lazy.images is None
    for a, b in zip(kept, lazy.batch(1, 4, 0)):
        assert torch.equal(a, b)


def test_channels_of_files(tmp_path):
    for i in range(2):
        draw(tmp_path / f"A/{i}.png", mode="L")
        draw(tmp_path / f"B/{i}.png", mode="L")
    assert load(tmp_path).channels == 1
    assert load(tmp_path, channels=3).pairs_at([0])[1].shape == (1, 3, 16, 16)
    draw(tmp_path / "B/1.png", mode="RGB")
    assert load(tmp_path, channels=1).batch(0, 2, 0)[1].shape == (2, 1, 16, 16)


# --- bad input: one line that names the file


def fails(call):
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_no_pairs(tmp_path):
    assert f"no folder {tmp_path / 'none'}" in fails(lambda: load(tmp_path / "none"))
    assert f"no images under {tmp_path}" in fails(lambda: load(tmp_path))
    draw_side_by_side(tmp_path, 1)
    assert f"{tmp_path} holds a single pair" in fails(lambda: load(tmp_path))
    draw_side_by_side(tmp_path / "train", 2)
    assert f"{tmp_path / 'train'} has no test/ or val/" in fails(lambda: load(tmp_path))
    (tmp_path / "test").mkdir()
    assert f"no images under {tmp_path / 'test'}" in fails(lambda: load(tmp_path, "test"))


@pytest.mark.parametrize(
    "folders",
    [
        "testA testB trainA trainB",
        "input target",
        "set/test set/train",
        "train/input train/target test",
        "A/exam A/learn B/exam B/learn",
    ],
)
def test_images_in_folders_of_an_unknown_layout_are_refused(tmp_path, folders):
    """Else they would be cut in half, or trained and tested on alike."""
    places = [tmp_path / folder for folder in folders.split()]
    for place in places:
        for i in range(3):
            draw(place / f"{i}.png")
    line = fails(lambda: load(tmp_path))
    assert f"images in {places[0]} and in {places[1]}: " in line and "into A/ and B/" in line


def test_a_split_that_is_half_there_is_refused(tmp_path):
    draw_side_by_side(tmp_path / "Test", 3)
    assert f"{tmp_path / 'Test'} has no train/" in fails(lambda: load(tmp_path))
    draw(tmp_path / "Train/A/0.png")
    draw(tmp_path / "Train/B/0.png")
    line = fails(lambda: load(tmp_path))
    assert f"{tmp_path / 'Train'} and {tmp_path / 'Test'}: A/ and B/" in line
    draw(tmp_path / "A/train/0.png")
    assert f"{tmp_path / 'A/train'} has no test/" in fails(lambda: load(tmp_path))
    draw(tmp_path / "A/test/0.png")
    assert f"no images under {tmp_path / 'B/train'}" in fails(lambda: load(tmp_path))


def test_folders_named_as_images_and_grey_palettes(tmp_path):
    for i in range(2):
        draw(tmp_path / "A.png" / f"{i}.png", width=32, shade=90 * i, mode="P")
        (tmp_path / "A.png" / f"{i}.jpg").mkdir()
    assert load(tmp_path).channels == 1 and len(load(tmp_path)) == 1


def test_crops_larger_than_any_image_are_refused_with_a_way_out():
    with pytest.raises(UserError, match="--size 1024: random crops need .* Give --no-jitter"):
        load_pairs("deraining", "synthetic", "", size=1024)


def test_a_side_by_side_image_of_odd_width(tmp_path):
    draw_side_by_side(tmp_path, 3)
    draw(tmp_path / "odd.png", width=33)
    line = fails(lambda: load(tmp_path))
    assert f"{tmp_path / 'odd.png'} is 33x16" in line and "even width" in line


def test_pairs_that_do_not_fit(tmp_path):
    for name in "012":
        draw(tmp_path / f"A/{name}.png")
        draw(tmp_path / f"B/{name}.png")
    draw(tmp_path / "B/1.png", width=18)
    line = fails(lambda: load(tmp_path))
    assert str(tmp_path / "A/1.png") in line and "20x16 and 18x16" in line
    draw(tmp_path / "B/1.png")
    for folder, other in ("AB", "BA"):
        alone = tmp_path / f"{folder}/alone.png"
        draw(alone)
        assert f"{alone} has no partner in {tmp_path / other}" in fails(lambda: load(tmp_path))
        alone.unlink()
    draw(tmp_path / "A/1.jpg")
    assert "have one name" in fails(lambda: load(tmp_path))
    (tmp_path / "A/1.jpg").unlink()
    draw(tmp_path / "B/2.png", mode="L")
    line = fails(lambda: load(tmp_path))
    assert f"{tmp_path / 'B/2.png'} is grey" in line and "--channels 3" in line
    for file in (tmp_path / "B").iterdir():
        file.unlink()
    assert f"no images under {tmp_path / 'B'}" in fails(lambda: load(tmp_path))


@pytest.mark.parametrize("lazy", [False, True])
def test_a_corrupt_file(tmp_path, lazy, monkeypatch):
    draw_side_by_side(tmp_path, 3, size=32)
    bad = tmp_path / "000.png"
    if lazy:
        monkeypatch.setattr(pairs_module, "IN_MEMORY", 0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    Image.fromarray(pixels).save(bad)
    bad.write_bytes(bad.read_bytes()[:9000])  # its header is whole
    assert f"can't decode the image {bad}" in fails(lambda: load(tmp_path).batch(0, 8, 0))
    bad.write_text("not an image")
    assert f"can't decode the image {bad}" in fails(lambda: load(tmp_path))


def test_deep_images_are_read_as_in_folders_of_images(tmp_path, capsys):
    """16-bit grey as 8 bits; 32-bit pixels have no fixed range."""
    draw_side_by_side(tmp_path, 3)
    deep = np.full((16, 32), 65535, np.uint16)
    deep[:, 16:] = 257
    Image.fromarray(deep).save(tmp_path / "001.png")
    a, b = load(tmp_path, channels=1).decode(1)
    assert a.unique().tolist() == [255] and b.unique().tolist() == [1]
    assert f"16-bit grey images in {tmp_path}: 1 of 3" in capsys.readouterr().err
    Image.fromarray(np.zeros((16, 32), np.int32)).save(tmp_path / "001.tif")
    (tmp_path / "001.png").unlink()
    assert f"can't decode the image {tmp_path / '001.tif'} (32 bits a pixel" in fails(
        lambda: load(tmp_path, channels=1)
    )


def test_transparent_images_lie_on_white(tmp_path):
    draw_side_by_side(tmp_path, 3)
    Image.new("RGBA", (32, 16), (0, 0, 0, 0)).save(tmp_path / "001.png")
    assert load(tmp_path, channels=3).decode(1).unique().tolist() == [255]


def test_a_size_that_a_network_cannot_take(tmp_path):
    draw(tmp_path / "x.png", width=100, height=64)
    assert read_image(tmp_path / "x.png", 1).shape == (1, 64, 100)
    assert "multiple of 32" in fails(lambda: load_pairs("inpainting", "synthetic", "", size=60))


def test_wrong_names():
    assert "unknown task" in fails(lambda: load_pairs("painting", "synthetic", ""))
    assert "has no pairs" in fails(lambda: load_pairs("pairs", "mnist", ""))
    assert "grey" in fails(lambda: load_pairs("colourisation", "synthetic", "", size=64))


# --- pix2pix's sets


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A set of six drawn pairs behind a URL of this machine."""
    root = tmp_path / "server/drawn"
    draw_side_by_side(root / "train", 4)
    draw_side_by_side(root / "val", 2)
    archive = tmp_path / "server/drawn.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root, "drawn")
    small = Pix2pixSet({"train": 4, "val": 2}, "BtoA")
    monkeypatch.setitem(pairs_module.PIX2PIX_SETS, "drawn", small)
    monkeypatch.setattr(pairs_module, "URL", (tmp_path / "server").as_uri() + "/{}.tar.gz")
    return archive


def test_a_pix2pix_set_is_fetched_once_and_checked(served, tmp_path):
    data = tmp_path / "data"
    pairs = load_pairs("pairs", "drawn", data, size=16)
    assert len(pairs) == 4 and pairs.direction == "BtoA"
    assert brightness(pairs.pairs_at(range(4))[0]) == [0, 10, 20, 30]
    assert [p.name for p in data.iterdir()] == ["drawn"]
    served.unlink()
    assert len(load_pairs("pairs", "drawn", data, "test", size=16)) == 2
    (data / "drawn/train/000.png").unlink()
    line = fails(lambda: load_pairs("pairs", "drawn", data, size=16))
    assert f"{data / 'drawn'}: train/ holds 3 images, not 4" in line


def test_a_set_that_another_process_fetched_meanwhile_is_used(served, tmp_path, monkeypatch):
    def count_after_the_other(name, root):
        if not (tmp_path / "data" / name).exists():
            shutil.copytree(root, tmp_path / "data" / name)
        return wrong_count(name, root)

    monkeypatch.setattr(pairs_module, "wrong_count", count_after_the_other)
    assert len(load_pairs("pairs", "drawn", tmp_path / "data", size=16)) == 4
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["drawn"]


def test_a_damaged_download_leaves_nothing(served, tmp_path):
    served.write_bytes(served.read_bytes()[:300])
    line = fails(lambda: load_pairs("pairs", "drawn", tmp_path / "data", size=16))
    assert "can't get drawn from file://" in line and "By hand: unpack" in line
    assert list((tmp_path / "data").iterdir()) == []
    with tarfile.open(served, "w:gz") as tar:
        entry = tarfile.TarInfo("drawn/train/000.png")
        tar.addfile(entry, io.BytesIO())
    assert "holds 1 images, not 4" in fails(
        lambda: load_pairs("pairs", "drawn", tmp_path / "data", size=16)
    )
    assert list((tmp_path / "data").iterdir()) == []


def test_without_network_one_line_says_how_to_do_it_by_hand(tmp_path):
    line = fails(lambda: load_pairs("pairs", "facades", tmp_path, size=16))
    assert "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/facades.tar.gz" in line
    assert f"so that {tmp_path}/facades/train/*.jpg is there" in line
    assert "downloads are off" in fails(
        lambda: load_pairs("pairs", "maps", tmp_path, download=False)
    )
