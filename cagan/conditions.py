"""From classes or binary attributes to condition vectors (Figs. 5-8), and to what G is asked for.

GAN A does not care about images without A, so not-A must be a condition with a GAN of its own.
Attributes of which an image has exactly one (hair colours; male and female) need no such twin: they
form an exclusive group. Every set of conditions is thus a list of exclusive groups, stored one
after the other; ten classes are one group of ten.

    condition_names(["Male", "Bald", "Black_Hair"], exclusive=[["Black_Hair", "Bald"]])
    # -> ["Black_Hair", "Bald", "Male", "not Male"], [2, 2]
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError


def condition_names(attributes: list[str], exclusive=()) -> tuple[list[str], list[int]]:
    """Names of the S conditions, sizes of their exclusive groups.

    exclusive: groups of attributes of which an image has one. Each other attribute A becomes the
    group (A, not A).
    """
    grouped = [name for group in exclusive for name in group]
    if len(set(grouped)) < len(grouped) or not set(grouped) <= set(attributes):
        raise ValueError(
            f"exclusive groups {exclusive} must share no attribute, "
            f"and hold only ones of {attributes}"
        )
    groups = [list(group) for group in exclusive]
    groups += [[a, f"not {a}"] for a in attributes if a not in grouped]
    return [name for group in groups for name in group], [len(group) for group in groups]


def to_conditions(values: Tensor, attributes: list[str], exclusive=()) -> Tensor:
    """Binary attributes (N, A) in {0, 1} -> conditions (N, S) in {0, 1}, float32.

    They stand in the order of `condition_names`. An image that has none of an exclusive group, or
    several, contradicts the group: it activates no condition of it, so no GAN of that group cares
    about it.
    """
    columns = dict(zip(attributes, values.float().T))
    parts = []
    for group in exclusive:
        part = torch.stack([columns[name] for name in group], 1)
        parts.append(part * (part.sum(1, keepdim=True) == 1))
    grouped = {name for group in exclusive for name in group}
    parts += [torch.stack([columns[a], 1 - columns[a]], 1) for a in attributes if a not in grouped]
    return torch.cat(parts, 1)


def uniform_targets(n: int, groups: list[int], rng: torch.Generator) -> Tensor:
    """cnd' (n, S): of each group one condition, all equally often."""
    parts = [F.one_hot(torch.randint(size, (n,), generator=rng), size) for size in groups]
    return torch.cat(parts, 1).float()


def one_of_each_group(conditions: Tensor, groups: list[int]) -> Tensor:
    """(N,) bool: which images can be asked for, as they contradict no group."""
    return torch.stack([part.sum(1) == 1 for part in conditions.split(groups, 1)]).all(0)


def each_condition(groups: list[int]) -> Tensor:
    """(S, S): row c activates condition c, and of the other groups the first condition."""
    rows = torch.zeros(sum(groups), sum(groups))
    starts = [sum(groups[:i]) for i in range(len(groups))]
    for start, size in zip(starts, groups):
        others = [first for first in starts if first != start]
        for c in range(start, start + size):
            rows[c, [*others, c]] = 1
    return rows


# --- an ImageSet whose labels are conditions


def set_conditions(data, attributes=None):
    """Replace the labels of an ImageSet by conditions (N, S). Returns (their names, groups' sizes).

    A condition that no image has is refused: its GAN would have no real images. attributes: None:
    the classes; else names of list_attr_celeba.txt, those of an exclusive group joined by "+":
    ["Male", "Black_Hair+Blond_Hair+Bald"].
    """
    if attributes:
        names, groups, conditions = from_attributes(data, attributes)
        remedy = "Leave it out of --attributes"
    else:
        names, groups, conditions = _from_classes(data)
        remedy = "Add some, or take the class out of the set"
    for name, images in zip(names, conditions.sum(0).tolist()):
        if images == 0:
            raise UserError(
                f"condition {name}: none of the {len(data):,} images of {data.name} has it alone "
                f"of its group, so its GAN would see no real image. {remedy}"
            )
    data.labels = conditions
    return names, groups


def _from_classes(data):
    if data.labels is None:
        raise UserError(
            f"{data.name} has no classes to condition on: choose a labelled set, "
            "or CelebA's --attributes"
        )
    names = list(data.classes) or [str(c) for c in range(int(data.labels.max()) + 1)]
    return names, [len(names)], F.one_hot(data.labels, len(names)).float()


def from_attributes(data, attributes):
    """Names of the conditions, sizes of their groups, conditions (N, S) of CelebA's images."""
    if data.name != "celeba":
        raise UserError(f"--attributes are CelebA's, not {data.name}'s: choose --dataset celeba")
    exclusive = [words.split("+") for words in attributes if "+" in words]
    single = [name for words in attributes for name in words.split("+")]
    if len(set(single)) < len(single):
        raise UserError(f"--attributes {' '.join(attributes)}: each attribute once")
    values = _celeba_attributes(data.files, single)
    names, groups = condition_names(single, exclusive)
    return names, groups, to_conditions(values, single, exclusive)


def _celeba_attributes(files, attributes):
    """(N, A) in {0, 1} of the images in `files`, from list_attr_celeba.txt beside their folder."""
    path = files[0].parent.parent / "list_attr_celeba.txt"
    try:
        _, names, *rows = path.read_text().splitlines()
    except (OSError, ValueError):
        raise UserError(
            f"no attributes in {path}: put CelebA's Anno/list_attr_celeba.txt there"
        ) from None
    names = names.split()
    if unknown := sorted(set(attributes) - set(names)):
        raise UserError(
            f"--attributes {' '.join(unknown)}: not in {path}. There are: {' '.join(names)}"
        )
    places = [names.index(name) for name in attributes]
    table = {}
    for number, row in enumerate(rows, 3):
        if not row.strip():
            continue
        file, *values = row.split()
        if len(values) != len(names) or not {values[i] for i in places} <= {"1", "-1"}:
            raise UserError(
                f"{path}, line {number}: {row[:60]!r} is not a file name and {len(names)} times "
                "1 or -1"
            )
        table[file] = [values[i] == "1" for i in places]
    if missing := [file.name for file in files if file.name not in table]:
        raise UserError(
            f"{path} has no line for {missing[0]} ({len(missing)} images lack one): "
            "is it the whole file?"
        )
    return torch.tensor([table[file.name] for file in files]).float()


def unbalance(data, first: int, rest: int) -> None:
    """§6.3: keep the first `first` images of class 0, `rest` of each other one.

    To be called before `set_conditions`.
    """
    if data.labels is None:
        raise UserError(f"--unbalanced {first} {rest}: {data.name} has no classes")
    keep = []
    for c in range(int(data.labels.max()) + 1):
        places = (data.labels == c).nonzero()[:, 0]
        count = first if c == 0 else rest
        if len(places) < count:
            raise UserError(
                f"--unbalanced {first} {rest}: {data.name} has {len(places)} images of class {c}. "
                "Ask for fewer"
            )
        keep.append(places[:count])
    keep = torch.cat(keep)
    data.labels = data.labels[keep]
    if data.images is None:
        data.files = [data.files[i] for i in keep.tolist()]
    else:
        data.images = data.images[keep]
