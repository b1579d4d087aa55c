"""Pictures, by their pixels."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from common import plots, runs
from common.cli import UserError


def read(path):
    with Image.open(path) as image:
        return np.asarray(image), image.mode


def flat(*values, size=(2, 3), channels=1):
    """One constant image per value."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, channels, *size)


def test_grid_layout():
    """Three 2x3 images, two a row, 1 pixel of white between: black, mid grey, white; the fourth place is white."""
    picture = plots.grid(flat(-1.0, 0.0, 1.0), nrow=2, pad=1)
    W, b, g = 255, 0, 128
    assert picture.dtype == np.uint8 and picture[..., 0].tolist() == [
        [W, W, W, W, W, W, W, W, W],
        [W, b, b, b, W, g, g, g, W],
        [W, b, b, b, W, g, g, g, W],
        [W] * 9,
        [W] * 9,
        [W] * 9,
        [W] * 9,
    ]


def test_grid_keeps_orientation_and_clamps():
    image = torch.tensor([[-3.0, 3.0], [-0.5, 0.5]]).view(1, 1, 2, 2)
    assert plots.grid(image, pad=0, nrow=1)[..., 0].tolist() == [[0, 255], [64, 191]]


def test_grid_takes_bfloat16_with_gradient():
    image = flat(0.0).bfloat16().clone().requires_grad_()
    assert plots.grid(image, pad=0, nrow=1)[0, 0, 0] == 128


def test_save_grid_in_grey_and_zoomed(tmp_path):
    plots.save_grid(flat(-1.0, 1.0), tmp_path / "new/grid.png", nrow=1, pad=1, zoom=3)
    picture, mode = read(tmp_path / "new/grid.png")
    once = plots.grid(flat(-1.0, 1.0), nrow=1, pad=1)[..., 0]
    assert mode == "L" and picture.shape == (7 * 3, 5 * 3)
    assert np.array_equal(picture, np.kron(once, np.ones((3, 3), np.uint8)))


@pytest.mark.parametrize(("side", "zoom"), [(1, 64), (28, 2), (32, 2), (33, 1), (128, 1)])
def test_save_grid_enlarges_small_images_to_at_most_64_pixels(tmp_path, side, zoom):
    image = torch.zeros(1, 1, 1, side).expand(1, 1, side, side)
    plots.save_grid(image, tmp_path / "one.png", nrow=1, pad=0)
    assert read(tmp_path / "one.png")[0].shape == (side * zoom, side * zoom)


def test_save_grid_in_colour(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    plots.save_grid(red, tmp_path / "red.png", nrow=1, pad=0, zoom=1)
    picture, mode = read(tmp_path / "red.png")
    assert mode == "RGB" and (picture == [255, 0, 0]).all() and picture.shape == (2, 2, 3)


LOG = [{"step": 10 * i, "a": float(i), **({"b": 1.0} if i % 2 else {})} for i in range(1, 21)]


def test_curves(tmp_path, figures_of):
    figures = figures_of(plots)
    plots.curves(
        LOG,
        [["a", "b", "absent"], ["a"]],
        tmp_path / "sub/curves.png",
        smooth=2,
        points={"b": ([15], [0.5], "paper"), "absent": ([1], [1], "no line, no dot")},
    )
    first, second = figures[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in first.lines}
    assert set(lines) == {"a", "b", "paper"}
    assert lines["a"] == [[10 * i, i - 0.5] for i in range(2, 21)]  # a mean stands at its last step
    # seldom measured: not smoothed
    assert lines["b"] == [[10 * i, 1] for i in range(1, 21, 2)] and lines["paper"] == [[15, 0.5]]
    assert [line.get_label() for line in second.lines] == ["a"]


@pytest.mark.parametrize("log", [[], LOG[:1]])
@pytest.mark.filterwarnings("error")
def test_curves_of_almost_nothing(tmp_path, log):
    plots.curves(log, [["a"], ["absent"]], tmp_path / "curves.png", smooth=10)
    assert read(tmp_path / "curves.png")[0].size


def test_figures_are_saved_and_closed(tmp_path):
    before = plots.plt.get_fignums()
    plots.curves(LOG, [["a"]], tmp_path / "sub/curves.png")
    assert plots.plt.get_fignums() == before
    assert read(tmp_path / "sub/curves.png")[0].std() > 0


def test_densities_stand_where_their_points_are(tmp_path, figures_of):
    """Of 200x200 places in a square of ±2, x = 1 is column 150 and y = −1 is row 50."""
    figures = figures_of(plots)
    points = {"a": torch.tensor([[1.0, -1.0]] * 9), "b": torch.tensor([[0.0, 0.0]])}
    plots.densities(points, tmp_path / "d.png", 2)
    for axis, place in zip(figures[0].axes, ([50, 150], [100, 100])):
        values = axis.images[0].get_array()
        brightest = np.unravel_index(values.argmax(), values.shape)
        assert np.abs(np.subtract(brightest, place)).max() <= 1


def test_exported_samples_are_read_back(tmp_path):
    images = torch.tensor([-3.0, -1.0, 0.0, 1.0]).view(2, 1, 1, 2)
    plots.export_samples([images[:1], images[1:]], tmp_path / "images", labels=np.arange(2))
    with np.load(tmp_path / "images/samples.npz") as f:
        assert f["images"].tolist() == [[[[0], [0]]], [[[128], [255]]]] and f[
            "labels"
        ].tolist() == [0, 1]
    assert np.array(plots.Image.open(tmp_path / "images/000001.png")).tolist() == [[128, 255]]
    plots.export_samples([torch.tensor([[-3.0, 4.0]])], tmp_path / "points")
    with np.load(tmp_path / "points/samples.npz") as f:
        assert f["points"].tolist() == [[-3.0, 4.0]]
    with pytest.raises(UserError, match="not empty"):
        plots.export_samples([images], tmp_path / "images")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        plots.export_samples([images], tmp_path / "file")


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, OSError])
def test_a_partial_export_is_removed(tmp_path, monkeypatch, there, error):
    """Whatever stops it, while samples are drawn or while they are written."""
    folder = tmp_path / "out"
    if there:
        folder.mkdir()

    def stopped():
        yield flat(0.0)
        raise error("stopped")

    with pytest.raises(error):
        plots.export_samples(stopped(), folder)
    assert folder.exists() == there and not list(tmp_path.rglob("*.*"))
    written = []

    def save(self, path):
        written.append(path)
        if len(written) == 3:
            raise error("stopped")
        path.touch()

    monkeypatch.setattr(plots.Image.Image, "save", save)
    with pytest.raises(error):
        plots.export_samples([flat(0.0, 0.1, 0.2, 0.3)], folder)
    assert len(written) == 3 and folder.exists() == there and not list(tmp_path.rglob("*.*"))


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "draw", [plots.save_grid, lambda image, path: plots.curves(LOG, [["a"]], path)]
)
def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path, monkeypatch, draw):
    path = tmp_path / "picture.png"
    draw(flat(0.0), path)
    before = path.read_bytes()
    monkeypatch.setattr(runs, "open", full, raising=False)
    with pytest.raises(UserError, match="can't write .*picture.png: No space left"):
        draw(flat(1.0), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize("file", ["PNG", "NPZ"])
def test_an_export_onto_a_full_disk_is_one_line(tmp_path, monkeypatch, file):
    if file == "PNG":
        monkeypatch.setattr(plots.Image.Image, "save", full)
    else:
        monkeypatch.setattr(runs, "open", full, raising=False)
    with pytest.raises(UserError, match="can't write .*out.*: No space left on device"):
        plots.export_samples([flat(0.0)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["picture", "picture.gan"])
def test_a_picture_needs_an_ending_that_is_known(tmp_path, name):
    for draw in (plots.save_grid, lambda image, path: plots.curves(LOG, [["a"]], path)):
        with pytest.raises(UserError, match="Choose a name that ends in .png"):
            draw(flat(0.0), tmp_path / name)


def test_a_label_with_dollars_is_no_formula(tmp_path):
    plots.save_grid(torch.zeros(2, 1, 8, 8), tmp_path / "a.png", nrow=1, rows=["$5_$10", "ok"])
    assert (tmp_path / "a.png").exists()


def test_powers_of_ten_at_an_axis_are_a_formula_and_labels_are_none(tmp_path):
    figure, (plain, logarithmic) = plots.plt.subplots(1, 2)
    for axis in (plain, logarithmic):
        axis.plot([1, 1000], [1, 1000], label="$5")
        axis.set_title("$5_$10")
        axis.legend()
    logarithmic.set_yscale("log")
    plots.save_figure(figure, tmp_path / "a.png")
    assert all(label.get_parse_math() for label in logarithmic.get_yticklabels())
    others = [plain.title, logarithmic.title, *logarithmic.get_legend().get_texts()]
    assert not any(text.get_parse_math() for text in others + plain.get_yticklabels())
    narrow, axis = plots.plt.subplots()
    axis.plot([1, 2], [2, 8])
    axis.set_yscale("log")  # whose labels are all between powers of ten
    plots.save_figure(narrow, tmp_path / "b.png")
    between = [label for label in axis.get_yticklabels(minor=True) if label.get_text()]
    assert between and all(label.get_parse_math() for label in between)
