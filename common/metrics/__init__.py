"""Metrics. A key says what its number was measured on: fid_lenet_10k_test.

<what>[_<extractor>]_<samples>[_<split>]
"""

import math
import re


def count_tag(n: int) -> str:
    """10000 -> 10k, 2500 -> 2.5k, 1234 -> 1234: not rounded, so two counts never share a key."""
    return f"{n / 1000:g}k" if n >= 1000 and n % 100 == 0 else str(n)


def find_metric(metrics: dict, what: str, default=math.nan):
    """The first value in `metrics` whose key is `what` and such a tag, else `default`."""
    key = re.compile(re.escape(what) + r"(_(lenet|inception|effnet)\w*?)?_[\d.]+k?(_.*)?")
    return next((value for k, value in metrics.items() if key.fullmatch(k)), default)
