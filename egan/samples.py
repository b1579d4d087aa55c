"""Samples of the fittest generator, while it trains and after: noise, pictures, scores."""

import math

import numpy as np
import torch

from common import plots
from common.metrics.images import Tracker
from common.metrics.toy import mmd2, mode_metrics
from common.rng import step_rng
from common.toys import MIXTURES, mixture


def sample_z(shape, args, generator):
    """z ~ p_z: (*shape, N_z), uniform on [-1, 1]. shape: (n,), or (P, n) for P individuals."""
    return 2 * torch.rand(*shape, args.z_dim, generator=generator) - 1


class Progress:
    """What a run shows of its fittest generator at each --sample-every, always at the same z.

    test_set: images for FID (--fid-samples); None: no FID.
    """

    def __init__(self, args, device, test_set=None):
        self.args, self.device = args, device
        self.toy = args.dataset in MIXTURES
        self.z = sample_z((2000 if self.toy else 64,), args, step_rng(args.seed, 0)).to(device)
        self.track = None
        if test_set is not None:
            self.track = Tracker(test_set, args.dataset, device, args.data_dir, "auto")

    def samples(self, population, z=None):
        """Samples (n, …) of the fittest. z: (n, N_z); None: the same at each call."""
        z = self.z if z is None else z
        return population.sample(z.expand(len(population), *z.shape))[0]

    def scores(self, population, samples, run, step):
        """Toys: modes and MMD² of `samples`. Images: FID and IS of --fid-samples others."""
        if self.toy:
            data = mixture(self.args.dataset)
            real, _ = data.sample(len(samples), step_rng(self.args.seed, 0))
            return mode_metrics(samples, data) | {"mmd2": mmd2(samples, real, 1.0, unbiased=True)}
        if self.track is None:
            return {}
        n = self.args.fid_samples
        z = sample_z((n,), self.args, step_rng(self.args.seed, 0)).to(self.device)
        images = (self.samples(population, part) for part in z.split(250))
        return self.track(run.checked(step, images), n)


# --- pictures


def draw_samples(samples, dataset, path, title="generated"):
    """Toys: a density plot beside the data's (the paper's Fig. 3). Images: a square grid."""
    if dataset in MIXTURES:
        data = mixture(dataset)
        real, _ = data.sample(len(samples), torch.Generator().manual_seed(0))
        plots.densities({f"data: {data.name}": real, title: samples}, path, limit=2)
    else:
        nrow = max(1, round(math.sqrt(len(samples))))
        plots.save_grid(samples, path, nrow)


def draw_selected(log, mutations, path):
    """Shares of the mutations among the survivors over training: the paper's Fig. 4, right."""
    steps = np.array([line["step"] for line in log])
    shares = np.array([[line[f"selected_{name}"] for line in log] for name in mutations])
    width = max(1, len(steps) // 50)
    kernel = np.ones(width) / width
    smooth = np.array([np.convolve(row, kernel, "valid") for row in shares])
    figure, axis = plots.plt.subplots(figsize=(7, 2.6))
    if smooth.shape[1] > 1:
        axis.stackplot(steps[width - 1 :], smooth, labels=mutations)
    else:
        axis.bar(mutations, smooth[:, 0], label=mutations)
    axis.set(xlabel="generation", ylabel="share of survivors", ylim=(0, 1))
    handles, names = axis.get_legend_handles_labels()  # upside down, as they are stacked
    beside = dict(loc="upper left", bbox_to_anchor=(1, 1), title="mutation")
    axis.legend(handles[::-1], names[::-1], fontsize=8, title_fontsize=8, **beside)
    plots.save_figure(figure, path)


def panels(args):
    """What curves.png shows."""
    if args.mutations == ["wasserstein"]:  # no F: it takes D as sigmoid(l), which no critic is
        shown = [["L_D"]]
    else:
        shown = [["L_D"], ["F_q"], ["F_d"], [f"selected_{name}" for name in args.mutations]]
    return shown + ([["mmd2"], ["modes"]] if args.dataset in MIXTURES else [])
