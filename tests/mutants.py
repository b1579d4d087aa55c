"""Does a test notice when a line is wrong? Mutation testing: `make mutants`, not part of CI.

  python -m tests.mutants --folders began --n 30 --seed 0
  python -m tests.mutants --folders began mdma common --files train.py --jobs 2
  python -m tests.mutants --again             the survivors of earlier runs, after tests were added

Each mutant is one small change of one file (see `changes`), made in a copy of the tree. The tests
that watch this file run on it; where none fails, the mutant has survived. Results go to
runs/mutants/results.jsonl, and what is there is not run again. At the end come a table by file and
every survivor.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

REPO = Path(__file__).resolve().parent.parent
FOLDERS = sorted(path.parent.name for path in REPO.glob("*/train.py"))
# no line of a training run
LEFT_OUT = {"__init__.py", "eval.py", "reproduce.py", "simulate.py", "twin.py"}
LEFT_OUT |= {"tables.py", "figures.py", "curves.py", "pictures.py", "surfaces.py"}
COMMON_TESTS = {  # of common/, where test_<name>.py is not enough
    "cli": "test_cli test_runs",
    "arguments": "test_cli",
    "device": "test_device test_runs test_steps",
    "rng": "test_device test_runs test_steps",
    "distributed": "test_device",
    "cuda": "test_device test_mdma",
    "download": "test_data",
    "folders": "test_data",
    "toys": "test_metrics_toy",
    "distances": "test_metrics_images",
    "extractors": "test_metrics_images",
    "inception": "test_metrics_images",
    "masking": "test_masking test_mdma_model",
    "images": "test_metrics_images",
    "lenet": "test_metrics_images",
    "jets": "test_metrics_jets",
    "toy": "test_metrics_toy",
}
SHOWING = {"print", "announce", "curves", "save_grid", "densities", "surface", "add_argument_group"}
SHOWN = {"draw", "draw_curves", "draw_features", "panels"}  # functions that only show
SETTINGS = re.compile(
    r"QUICK|SMOKE|PRESETS|THESIS|BERTHELOT|IMAGES"
)  # tables: a test would only repeat them
SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "argmin": "argmax",
    "argmax": "argmin",
    "rand": "randn",
    "randn": "rand",
    "eval": "train",
    "train": "eval",
}
UNWRAPPED = {"detach", "abs", "square", "sqrt", "exp", "log", "clone", "float", "double"}


class Mutant(NamedTuple):
    """One change of one file: bytes [start, end) of the source are replaced by `new`."""

    line: int
    kind: str
    start: int
    end: int
    old: str
    new: str

    def applied(self, source):
        raw = source.encode()
        return (raw[: self.start] + self.new.encode() + raw[self.end :]).decode()


# --- mutants of a source


def changes(node):
    """Yield (kind, changed copy of the node) for every way to change this node itself."""

    def changed(kind, **fields):
        other = copy.deepcopy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return kind, other

    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        yield changed("operator", op=SWAPS[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield changed("comparison", ops=[SWAPS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "sign or not left out", node.operand
    elif isinstance(node, ast.IfExp):
        yield changed("condition", test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield changed("True, False", value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        for value in (1,) if node.value == 0 else (0, 2 * node.value):
            yield changed("number", value=value)
    elif isinstance(node, ast.Call):
        yield from changes_of_call(node, changed)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "statement left out", ast.Pass()
    elif isinstance(node, ast.AugAssign):
        yield "statement left out", ast.Pass()


def changes_of_call(node, changed):
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in NAMES:
        other = copy.deepcopy(node.func)
        setattr(other, "attr" if isinstance(node.func, ast.Attribute) else "id", NAMES[name])
        yield changed("other function", func=other)
    if len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
        yield changed("arguments swapped", args=[node.args[1], node.args[0], *node.args[2:]])
    for i, keyword in enumerate(node.keywords):
        if keyword.arg and keyword.arg not in ("help", "metavar"):
            yield changed("keyword left out", keywords=node.keywords[:i] + node.keywords[i + 1 :])
    if name in UNWRAPPED and isinstance(node.func, ast.Attribute) and not node.args:
        yield "call left out", node.func.value


def mutants(source):
    """All mutants of a module's source, in its order."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []

    def visit(node):
        if isinstance(node, ast.JoinedStr) or getattr(node, "name", "") in SHOWN:
            return
        if isinstance(node, ast.Assign) and SETTINGS.match(ast.unparse(node.targets[0])):
            return
        if isinstance(node, (ast.Call, ast.Expr)):
            func = getattr(getattr(node, "value", node), "func", None)
            if getattr(func, "attr", getattr(func, "id", "")) in SHOWING:
                return
        if isinstance(node, (ast.If, ast.While)):
            add(node.test, "condition", ast.UnaryOp(ast.Not(), node.test))
        for kind, other in changes(node):
            add(node, kind, other)
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        visit(child)

    def add(node, kind, other):
        start, end = (
            starts[line - 1] + column
            for line, column in (
                (node.lineno, node.col_offset),
                (node.end_lineno, node.end_col_offset),
            )
        )
        old = source.encode()[start:end].decode()
        new = ast.unparse(ast.fix_missing_locations(other))
        if not isinstance(other, (ast.Call, ast.Constant, ast.Name, ast.Pass)):
            new = f"({new})"
        mutant = Mutant(node.lineno, kind, start, end, old, new)
        if ast.dump(ast.parse(mutant.applied(source))) != unchanged:
            found.append(mutant)

    tree = ast.parse(source)
    unchanged = ast.dump(tree)
    visit(tree)
    return sorted(set(found), key=lambda m: (m.start, m.end, m.kind, m.new))


def choose(by_file, n, seed):
    """[(file, mutant)]: n of {file: mutants}, fixed by the seed. All kinds and files take turns."""
    groups = defaultdict(list)
    for file, all_of_it in sorted(by_file.items()):
        for mutant in all_of_it:
            groups[file, mutant.kind].append((file, mutant))
    rng, chosen = random.Random(seed), []
    groups = list(groups.values())
    for group in groups:
        rng.shuffle(group)
    while len(chosen) < n and groups:
        rng.shuffle(groups)
        chosen += [group.pop() for group in groups[: n - len(chosen)]]
        groups = [group for group in groups if group]
    return chosen


# --- running tests


def sources(folder, names=()):
    """Files of a folder that are mutated, relative to the repository."""
    return [
        str(path.relative_to(REPO))
        for path in sorted((REPO / folder).rglob("*.py"))
        if (path.name in names if names else path.name not in LEFT_OUT)
    ]


def watchers(file):
    """pytest's words for the tests that watch `file`, the quick ones first."""
    folder, name = Path(file).parts[0], Path(file).stem
    if folder != "common":
        own = sorted(f"tests/{path.name}" for path in (REPO / "tests").glob(f"test_{folder}*.py"))
        shared = ["tests/test_flags.py", "tests/test_smoke.py"]
        return ["tests/test_steps.py", *own, *shared, "-k", folder]
    names = COMMON_TESTS.get(name, f"test_{name}").split()
    there = [f"tests/{name}.py" for name in names if (REPO / f"tests/{name}.py").exists()]
    return there or ["tests/test_smoke.py"]


def run_tests(tree, words, timeout):
    """(verdict, seconds): "survived", "killed" or "timeout"."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words]
    start = time.time()
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        verdict = "killed" if process.wait(timeout) else "survived"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the tests' own processes, too
        process.wait()
        verdict = "timeout"
    return verdict, round(time.time() - start, 1)


def copy_tree(where):
    """A copy of the repository's files without what git ignores at its top."""

    def left_out(folder, names):
        top = {".git", ".venv", "runs", "data"} if Path(folder) == REPO else set()
        return (top | {"__pycache__"}).intersection(names)

    return Path(shutil.copytree(REPO, where, ignore=left_out))


def key_of(file, mutant):
    """What a result is found again by: the change in this version of the file."""
    version = hashlib.sha256((REPO / file).read_bytes()).hexdigest()[:12]
    return f"{file}@{version}:{mutant.start}:{mutant.kind}:{mutant.new}"


def described(result, width):
    old, new = (" ".join(result[which].split())[:width] for which in ("old", "new"))
    return f"{result['file']}:{result['line']}: {result['kind']}: {old}  ->  {new}"


def report(results):
    rows = defaultdict(lambda: defaultdict(int))
    for result in results:
        for row in (result["file"], "all"):
            rows[row][result["verdict"]] += 1
    print("| file | mutants | killed | survived | score |\n|---|---|---|---|---|")
    for file, counts in sorted(rows.items(), key=lambda item: (item[0] == "all", item[0])):
        total, survived = sum(counts.values()), counts["survived"]
        score = f"{1 - survived / total:.0%}"
        print(f"| {file} | {total} | {total - survived} | {survived} | {score} |")
    for result in results:
        if result["verdict"] == "survived":
            print(described(result, 200))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folders", nargs="+", default=[*FOLDERS, "common"], metavar="FOLDER")
    parser.add_argument("--files", nargs="+", default=(), metavar="NAME", help="only these")
    parser.add_argument("--n", type=int, default=30, help="mutants of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="run survivors once more")
    parser.add_argument("--out", type=Path, default=REPO / "runs/mutants/results.jsonl")
    args = parser.parse_args(argv)

    chosen = []
    for folder in args.folders:
        by_file = {file: mutants((REPO / file).read_text()) for file in sources(folder, args.files)}
        chosen += choose(by_file, args.n, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {result["key"]: result for result in map(json.loads, lines)}
    if args.again:
        done = {key: result for key, result in done.items() if result["verdict"] != "survived"}
    todo = [(file, mutant) for file, mutant in chosen if key_of(file, mutant) not in done]
    lock, trees, baseline = threading.Lock(), SimpleQueue(), {}

    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(args.jobs) as pool:
        for job in range(args.jobs):
            trees.put(copy_tree(f"{directory}/{job}"))

        def unchanged(words):
            tree = trees.get()
            verdict, seconds = run_tests(tree, words, 1800)
            trees.put(tree)
            if verdict != "survived":
                sys.exit(f"error: without a mutant the tests fail: pytest {' '.join(words)}")
            return seconds

        def judge(file, mutant):
            tree, words = trees.get(), watchers(file)
            source = (REPO / file).read_text()
            (tree / file).write_text(mutant.applied(source))
            verdict, seconds = run_tests(tree, words, 60 + 4 * baseline[tuple(words)])
            (tree / file).write_text(source)
            trees.put(tree)
            result = {
                "key": key_of(file, mutant),
                "file": file,
                "line": mutant.line,
                "kind": mutant.kind,
                "old": mutant.old,
                "new": mutant.new,
                "verdict": verdict,
                "seconds": seconds,
            }
            with lock, open(args.out, "a") as f:
                f.write(json.dumps(result) + "\n")
                done[result["key"]] = result
                print(f"{verdict:9} {seconds:6.1f} s  {described(result, 60)}", flush=True)

        for folder in args.folders:
            mine = [(file, mutant) for file, mutant in todo if Path(file).parts[0] == folder]
            selections = sorted({tuple(watchers(file)) for file, _ in mine})
            baseline.update(zip(selections, pool.map(unchanged, selections)))
            list(pool.map(lambda task: judge(*task), mine))
    report([done[key_of(file, mutant)] for file, mutant in chosen])


if __name__ == "__main__":
    main()
