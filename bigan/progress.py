"""What a training on images measures and draws at its sample steps; the curves of its log."""

import torch

from common.metrics import count_tag
from common.plots import curves
from common.runs import read_log

from .features import can_classify, encode, one_nn_accuracy
from .figures import pair_rows, sample_rows, save_rows


@torch.no_grad()
def progress(G, E, data, test, z, path, n_bank=10_000, n_queries=2000):
    """{key: value}: 1NN accuracies (of labels), and mean ‖x − G(E(x))‖ over that of shuffled pairs.

    Both on a part of the data, which takes seconds. Draws G(z), then x above G(E(x)), to `path`.
    """
    device = z.device
    places, asked = data.places(n_bank), test.places(n_queries)
    n_bank, n_queries = len(places), len(asked)
    scores = {}
    if can_classify(data, test):
        for name, net in (("E", E), ("features", E.features)):
            bank, queries = encode(net, data, places, device), encode(net, test, asked, device)
            scores[f"1nn_{name}_{count_tag(n_bank)}_{count_tag(n_queries)}"] = one_nn_accuracy(
                bank, data.labels[places], queries, test.labels[asked]
            )
    x = test.images_at(asked, device)
    rec = torch.cat([G(E(part)) for part in x.split(500)]).float()
    own = (x - rec).flatten(1).norm(dim=1).mean().item()
    shuffled = (x.roll(1, 0) - rec).flatten(1).norm(dim=1).mean().item()
    scores[f"recon_ratio_{count_tag(n_queries)}"] = own / shuffled
    save_rows(sample_rows(G(z).float()) + pair_rows(x[:32], rec[:32]), path)
    return scores


def draw_curves(folder):
    """curves.png of a log: losses, D's answers, 1NN accuracies, reconstruction error or modes."""
    log = read_log(folder / "log.jsonl")
    keys = sorted({key for line in log for key in line})
    panels = [
        [key for key in keys if key.startswith(start)]
        for start in ("L_", "D_", "1nn", ("recon", "modes"))
    ]
    curves(log, [panel for panel in panels if panel], folder / "curves.png")
