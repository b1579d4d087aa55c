"""Anomaly scores of anybody's images: `python -m bigan.eval --ckpt X --score DIR --out FILE`."""

import csv
import io
import sys
from pathlib import Path

from common.data import images_below
from common.errors import UserError
from common.evaluate import refuse_existing, say_written
from common.folders import BadImage, attempt, decode, report_bad
from common.runs import replace_file
from common.toys import MIXTURES

from .features import anomaly_scores
from .train import AUTOENCODERS

COLUMNS = {"score": "score", "recon": "L_G", "D_features": "L_D"}  # of `anomaly_scores`, in the CSV


def refuse_bad(images, folder):
    """One line that lists all files which can't be decoded."""

    def decodes(file):
        decode(file, images.size, images.channels)
        return True

    tried = attempt(decodes, images.files, "decoding")
    if bad := [one for one in tried if isinstance(one, BadImage)]:
        report_bad(bad, len(images), Path(folder), None)


def write_scores(G, E, D, trained, path, args, device):
    """A CSV with a line for each image below the folder: its file, score, L_G and L_D.

    D None, or of an autoencoder, which never trained it: file and L_G.
    """
    if trained.dataset in MIXTURES:
        raise UserError(f"--score: {path} was trained on {trained.dataset}, points, not images")
    refuse_existing("--out", args.out)
    D = None if trained.method in AUTOENCODERS else D
    images = images_below(args.score, trained.size, trained.channels)
    refuse_bad(images, args.score)  # all at once, and before the work
    found = anomaly_scores(G, E, D, images, device, args.batch_size)
    names = {key: name for key, name in COLUMNS.items() if key in found}
    files = [str(file.relative_to(args.score)) for file in images.files]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *names.values()])
    writer.writerows(zip(files, *(found[key].tolist() for key in names)))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    replace_file(args.out, text.getvalue().encode(errors="surrogateescape"))
    if D is None:
        print("no trained D in this checkpoint, so only L_G is written", file=sys.stderr)
    say_written(f"{args.out}, scores of {len(files):,} images")
