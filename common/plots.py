"""Pictures: sample grids, curves, densities. Everything is drawn off screen (Agg)."""

import io
import os
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from .errors import ADVICE, UserError
from .metrics.images import grey_levels
from .runs import replace_file

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.text import Text  # noqa: E402


DPI = 110


def grid(images, nrow=8, pad=2):
    """images (N, C, H, W) in [-1, 1], clamped -> uint8 (H', W', C) with `nrow` images per row."""
    x = grey_levels(images.detach().cpu()).byte().numpy()
    n, c, h, w = x.shape
    rows = -(-n // nrow)
    out = np.full((rows * (h + pad) + pad, nrow * (w + pad) + pad, c), 255, np.uint8)
    for i, image in enumerate(x):
        top, left = pad + i // nrow * (h + pad), pad + i % nrow * (w + pad)
        out[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    return out


def save_grid(images, path, nrow=8, pad=2, zoom=None, rows=(), columns=()):
    """Write a grid of images in [-1, 1] as a PNG, each pixel drawn zoom x zoom.

    zoom: none, the largest that keeps an image within 64 pixels, or 1 if it is larger already.
    rows, columns: their labels, at the left and on top; without any, the PNG is the grid alone.
    """
    zoom = zoom or max(1, 64 // max(images.shape[-2:]))
    picture = grid(images, nrow, pad).repeat(zoom, 0).repeat(zoom, 1)
    picture = picture.squeeze(-1) if picture.shape[-1] == 1 else picture
    if rows or columns:
        return save_figure(_labelled(picture, rows, columns, -(-len(images) // nrow), nrow), path)
    form = Image.registered_extensions().get(_ending(path))
    if form not in Image.SAVE:
        raise UserError(
            f"can't write {path}: no picture has that ending. Choose a name that ends in .png"
        )
    written = io.BytesIO()
    Image.fromarray(picture).save(written, form)
    _write(written, path)


def _ending(path):
    return Path(path).suffix.lower()


def _write(written, path):
    """Write what is in a BytesIO; a full disk leaves a picture that was there as it is."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, written.getbuffer())


def _labelled(picture, rows, columns, n_rows, n_columns):
    """A figure of the picture, pixel by pixel, with labels at the centres of rows and columns."""
    height, width = picture.shape[:2]
    figure = plt.figure(figsize=(width / DPI, height / DPI))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    centres = (np.arange(n_rows) + 0.5) * height / n_rows
    axis.set_yticks(centres[: len(rows)], rows, fontsize=8)
    centres = (np.arange(n_columns) + 0.5) * width / n_columns
    tilt = dict(rotation=30, ha="left") if max(map(len, columns), default=0) > 9 else {}
    axis.set_xticks(centres[: len(columns)], columns, fontsize=8, **tilt)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure


def export_samples(batches, folder, **more):
    """Write samples where other tools find them: folder/samples.npz and, of images, a PNG each.

    batches: points (B, 2), kept as float32 `points` (N, 2), or images (B, C, H, W) in [-1, 1], kept
    as uint8 `images` (N, H, W, C). more: further arrays for the NPZ. A folder that isn't empty is
    refused; one that could only be written in part, because of an error or Ctrl-C, is removed.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise UserError(f"--export {folder} is not empty: choose another folder")
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        samples = np.concatenate([_exported(batch).cpu().numpy() for batch in batches])
        name = "points" if samples.ndim == 2 else "images"
        written = io.BytesIO()  # a full disk would make np.savez print a traceback
        np.savez_compressed(written, **{name: samples}, **more)
        _write(written, folder / "samples.npz")
        for i, image in enumerate(samples if samples.ndim == 4 else ()):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
                folder / f"{i:06d}.png"
            )
    except BaseException as e:
        for path in folder.iterdir():
            path.unlink()
        if created:
            folder.rmdir()
        if isinstance(e, OSError) and e.errno in ADVICE:  # of a PNG, whose name it lacks
            line = f"can't write into {folder}: {os.strerror(e.errno)}. {ADVICE[e.errno]}"
            raise UserError(line) from None
        raise
    print(
        f"{len(samples)} samples in {folder}: samples.npz" + " and a PNG each" * (samples.ndim == 4)
    )


def _exported(samples):
    return samples if samples.ndim == 2 else grey_levels(samples).byte().permute(0, 2, 3, 1)


def show_dollars(figure):
    """Labels as they are written: a class may be called $5. Powers of ten at log axes are TeX."""
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    powers = {
        label
        for axis in axes
        if axis.get_scale() == "log"
        for label in axis.get_ticklabels(which="both")
    }
    for text in set(figure.findobj(Text)) - powers:
        text.set_parse_math(False)


def save_figure(figure, path):
    written = io.BytesIO()
    show_dollars(figure)
    try:
        figure.savefig(written, dpi=DPI, bbox_inches="tight", format=_ending(path)[1:])
    except ValueError as e:
        raise UserError(f"can't write {path}: {e}. Choose a name that ends in .png") from None
    finally:
        plt.close(figure)
    _write(written, path)


def curves(log, panels, path, smooth=1, points=None):
    """Curves of a log over steps.

    log: dicts with "step"; panels: [[key, …], …], one axis each; smooth: moving average over that
    many lines, at most a tenth of them, so that what is seldom measured is shown from its first
    value on; points: {key: (steps, values, label)} drawn as dots, e.g. a paper's printed values.
    Without panels, as of a checkpoint before the log's first line, nothing is drawn.
    """
    if not panels:
        return
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(7, 2.2 * len(panels)), sharex=True, squeeze=False
    )
    for axis, keys in zip(axes[:, 0], panels):
        for key in keys:
            rows = [(line["step"], line[key]) for line in log if key in line]
            if not rows:
                continue
            steps, values = (np.array(column, dtype=float) for column in zip(*rows))
            width = max(1, min(smooth, len(values) // 10))
            axis.plot(
                steps[width - 1 :],
                np.convolve(values, np.ones(width) / width, "valid"),
                lw=1,
                label=key,
            )
            if points and key in points:
                axis.plot(*points[key][:2], "ko", ms=4, label=points[key][2])
        if axis.lines:
            axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("step")
    save_figure(figure, path)


def densities(panels, path, limit):
    """Densities of points in the plane side by side, each in a square of [−limit, limit]².

    panels: {title: points (N, 2)}. Histograms blurred by a Gaussian, drawn as their square root:
    faint bridges show. All have the first one's scale: put the data first.
    """
    from scipy.ndimage import gaussian_filter

    figure, axes = plt.subplots(1, len(panels), figsize=(3 * len(panels), 3.3), squeeze=False)
    brightest = None
    for axis, (title, points) in zip(axes[0], panels.items()):
        x, y = np.asarray(points, dtype=float).T
        counts = np.histogram2d(y, x, bins=200, range=[[-limit, limit]] * 2)[0]
        brightness = np.sqrt(gaussian_filter(counts / len(x), 2))
        brightest = brightest or brightness.max() or 1.0
        extent = [-limit, limit] * 2
        axis.imshow(brightness, "magma", vmin=0, vmax=brightest, extent=extent, origin="lower")
        axis.set_title(title, fontsize=8)
        axis.set(xticks=(-limit, 0, limit), yticks=(-limit, 0, limit))
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("brightness: √density", fontsize=7)
    save_figure(figure, path)
