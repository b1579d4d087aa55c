"""Scores of files of jets, whatever generator made them: `python -m mdma.eval --generated FILE`."""

import os
import sys
from pathlib import Path

from common.device import choose_device
from common.errors import UserError
from common.evaluate import refuse_existing
from common.metrics.jets import FPND_TYPES, jet_metrics
from common.runs import environment, replace_file, write_json

from .figures import draw_features, draw_jets
from .jets import read_for_scores
from .tables import metric_lines, table1

OF_A_CHECKPOINT = ("ckpt", "dataset", "data_dir", "n", "samples", "export", "slim", "onnx")
OF_FILES = ("reference", "jet_type", "out")


def check_flags(args):
    """Refuse flags of the other use of eval.py: of a checkpoint, of files."""
    wrong = OF_A_CHECKPOINT if args.generated else OF_FILES
    typed = ["--" + name.replace("_", "-") for name in wrong if getattr(args, name) is not None]
    if args.units != "relative" and not args.generated:
        typed.append("--units")
    if typed and args.generated:
        raise UserError(f"{', '.join(typed)}: only for a checkpoint's jets, not with --generated")
    if typed:
        raise UserError(f"{', '.join(typed)}: only with --generated FILE, which scores that file")
    if args.generated and not args.reference:
        raise UserError(
            "--generated needs --reference FILE, the jets to compare with, such as test jets"
        )


def say_if_cut(name, jets, other_name, others):
    """A line if many of these jets have more particles than any of the other file's."""
    most = int(others.n.max())
    share = (jets.n > most).double().mean()
    if share > 0.1:
        print(
            f"{name}: {share:.0%} of the jets have more than {most} particles, of {other_name} "
            f"none. If that holds its jets' hardest {most} only, cut both files alike",
            file=sys.stderr,
        )


def score(args):
    """{key: value}: `jet_metrics` of the file --generated against --reference, as for a checkpoint.

    Writes <name>_eval.json, <name>_table1.md, <name>_fig2.png and <name>_jets.png, where <name> is
    the generated file's, into --out or beside that file.
    """
    generated = Path(args.generated)
    where = Path(args.out) if args.out else generated.parent
    files = [
        where / f"{generated.stem}_{ending}"
        for ending in ("eval.json", "table1.md", "fig2.png", "jets.png")
    ]
    refuse_existing("--out", *files)
    device = choose_device(args.device)
    gev = args.units == "gev"
    fake, real = (read_for_scores(path, gev) for path in (generated, args.reference))
    if min(len(real), len(fake)) < 10:
        raise UserError(
            f"{len(real)} jets in {args.reference} and {len(fake)} in {generated}: "
            "the metrics need ten of each"
        )
    if args.fpnd and (args.jet_type not in FPND_TYPES or fake.particles.shape[1] != 30):
        raise UserError(
            f"--fpnd needs jets of 30 particles and --jet-type {' or '.join(FPND_TYPES)}, but "
            f"{generated} has {fake.particles.shape[1]} particles per jet and --jet-type is "
            f"{args.jet_type or 'missing'}. Give it, or leave --fpnd out"
        )
    say_if_cut(generated, fake, args.reference, real)
    say_if_cut(args.reference, real, generated, fake)
    where.mkdir(parents=True, exist_ok=True)
    if not os.access(where, os.W_OK):
        raise UserError(f"nothing can be written into {where}: name another directory with --out")

    # --- Table 1
    print(f"{generated}: {len(fake):,} jets; {args.reference}: {len(real):,}")
    onto = device if device.type == "cuda" else "cpu"  # mps has no float64
    options = dict(seed=args.seed, fpnd_type=args.jet_type if args.fpnd else None)
    metrics = jet_metrics(real.particles.to(onto), fake.particles.to(onto), **options)
    result = {
        "generated": str(generated),
        "reference": args.reference,
        "units": args.units,
        "seed": args.seed,
        "generated_jets": len(fake),
        "reference_jets": len(real),
        "metrics": metrics,
        "env": environment(device),
    }
    text = table1(Path(args.reference).name, args.jet_type, metrics, model=generated.name)
    write_json(files[0], result)
    replace_file(files[1], text.encode())

    # --- Fig. 2
    shown = {"reference": real.particles, "generated": fake.particles}
    title = f"{len(fake):,} jets of {generated.name}, {len(real):,} of {Path(args.reference).name}"
    title += "; p_T(jet): the sum over its particles" if gev else ""
    draw_features(shown, files[2], title)
    draw_jets({label: x[:8] for label, x in shown.items()}, files[3])
    print(text, *metric_lines(metrics), sep="\n")
    print(f"in {where}: {', '.join(file.name for file in files)}")
    return metrics
