"""The mutation runner, and the rule that no test is skipped in silence."""

import ast
from types import SimpleNamespace

import pytest

from tests import conftest
from tests.mutants import REPO, choose, mutants, sources, watchers

SOURCE = '''
"""Not touched: 1 + 1."""

def f(x, y: int = 2):
    """Nor this: 3 < 4."""
    opt.step()
    x += 1
    if x < -y and not y:
        return min(x, key=abs), max(y, x)
    print(1 + 2)                             # é: columns are counted in bytes
    return "é" * (x.detach() - 3) ** 2 if True else f"{x + 1}"
'''


def test_each_mutant_is_one_change_that_parses():
    found = mutants(SOURCE)
    trees = [ast.dump(ast.parse(m.applied(SOURCE))) for m in found]
    assert ast.dump(ast.parse(SOURCE)) not in trees and len(set(trees)) == len(trees)
    for m in found:
        assert m.old in SOURCE and SOURCE.splitlines()[m.line - 1].find(m.old.splitlines()[0]) >= 0
        left, right = SOURCE.encode()[: m.start].decode(), SOURCE.encode()[m.end :].decode()
        assert m.applied(SOURCE) == left + m.new + right


def test_kinds_of_mutants():
    found = {(m.kind, m.old, m.new) for m in mutants(SOURCE)}
    for expected in (
        ("statement left out", "opt.step()", "pass"),
        ("statement left out", "x += 1", "pass"),
        ("condition", "x < -y and not y", "(not (x < -y and (not y)))"),
        ("operator", "x < -y and not y", "(x < -y or not y)"),
        ("comparison", "x < -y", "(x <= -y)"),
        ("sign or not left out", "-y", "y"),
        ("sign or not left out", "not y", "y"),
        ("keyword left out", "min(x, key=abs)", "min(x)"),
        ("other function", "max(y, x)", "min(y, x)"),
        ("arguments swapped", "max(y, x)", "max(x, y)"),
        ("call left out", "x.detach()", "x"),
        ("number", "3", "0"),
        ("number", "3", "6"),
        ("True, False", "True", "False"),
    ):
        assert expected in found, expected
    assert not any(old in ("1 + 2", "x + 1", "1 + 1", "3 < 4") for _, old, _ in found)


def test_the_choice_is_fixed_by_the_seed_and_mixes_kinds():
    by_file = {"a.py": mutants(SOURCE), "b.py": mutants(SOURCE)}
    chosen = choose(by_file, 12, seed=1)
    assert chosen == choose(by_file, 12, seed=1) != choose(by_file, 12, seed=2)
    assert len(set(chosen)) == 12 and len({m.kind for _, m in chosen}) >= 6
    everything = choose(by_file, 10_000, seed=0)
    assert len(everything) == len(set(everything)) == 2 * len(mutants(SOURCE))


@pytest.mark.parametrize("folder", ["began", "common"])
def test_every_file_has_tests(folder):
    assert f"{folder}/{'train' if folder == 'began' else 'runs'}.py" in sources(folder)
    for file in sources(folder):
        paths = [word for word in watchers(file) if word.endswith(".py")]
        assert paths and all((REPO / path).exists() for path in paths)


@pytest.mark.parametrize("reason, is_lost", [("can't import pandas", True), ("no CUDA", False)])
def test_a_skipped_test_fails_the_session(monkeypatch, reason, is_lost):
    monkeypatch.setattr(conftest, "lost", [])
    skipped = SimpleNamespace(skipped=True, longrepr=("f.py", 1, reason), nodeid="test_x")
    conftest.pytest_runtest_logreport(skipped)
    conftest.pytest_runtest_logreport(SimpleNamespace(skipped=False, nodeid="test_y"))
    session = SimpleNamespace(exitstatus=0)
    conftest.pytest_sessionfinish(session, pytest.ExitCode.OK)
    assert bool(conftest.lost) == is_lost and session.exitstatus == (1 if is_lost else 0)
