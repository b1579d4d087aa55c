"""The training log that the thesis prints (§4): one batch per epoch, beside our logs."""

from typing import NamedTuple

from common.plots import curves

EPOCH = 938  # steps: 60,000 images in batches of 64 (appendix)


class Printed(NamedTuple):
    """A printed line: D_loss, G_loss, k and M of one batch."""

    step: int
    L_D: float
    L_G: float
    k: float
    M: float


THESIS_LOG = [
    Printed(900 + 0 * EPOCH, L_D=0.1967, L_G=0.1152, k=0.0770, M=0.2177),
    Printed(900 + 1 * EPOCH, L_D=0.1248, L_G=0.0733, k=0.0660, M=0.1383),
    Printed(900 + 2 * EPOCH, L_D=0.1183, L_G=0.0754, k=0.0480, M=0.1362),
    Printed(900 + 3 * EPOCH, L_D=0.0964, L_G=0.0706, k=0.0320, M=0.1198),
    Printed(900 + 4 * EPOCH, L_D=0.0900, L_G=0.0507, k=0.0191, M=0.0962),
    Printed(900 + 5 * EPOCH, L_D=0.0857, L_G=0.0442, k=0.0112, M=0.0873),
    Printed(900 + 6 * EPOCH, L_D=0.0783, L_G=0.0470, k=0.0073, M=0.0862),
    Printed(900 + 7 * EPOCH, L_D=0.0796, L_G=0.0359, k=0.0060, M=0.0839),
]


SAME = dict(
    arch="thesis", encoder="resnet18", width=64, size=64, dataset="fashion-mnist", batch_size=64
)


def comparable(args):
    """Whether a step of this run is a step of the thesis: its images, networks and batch size."""
    return all(getattr(args, name) == value for name, value in SAME.items())


def draw_curves(log, args, path):
    """L(x) and L(G(z)), L_D, k and M over steps; the thesis' printed values as dots."""
    points = {}
    if comparable(args):
        steps = [line.step for line in THESIS_LOG]
        for key in ("L_D", "L_G", "k", "M"):
            points[key] = (steps, [getattr(line, key) for line in THESIS_LOG], "thesis")
    curves(log, [["L_x", "L_G"], ["L_D"], ["k"], ["M"]], path, smooth=10, points=points)


def thesis_table(log):
    """[{epoch, M_ours, M_thesis}, …], one for each epoch whose step 900 `log` has reached.

    M_ours is the mean of the logged batches in the 100 steps up to there, M_thesis one batch's.
    """
    rows = []
    for epoch, printed in enumerate(THESIS_LOG, start=1):
        window = range(printed.step - 99, printed.step + 1)
        ours = [line["M"] for line in log if line["step"] in window]
        if ours and log[-1]["step"] >= printed.step:
            M = sum(ours) / len(ours)
            rows.append({"epoch": epoch, "M_ours": M, "M_thesis": printed.M})
    return rows
