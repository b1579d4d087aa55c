"""The reading pages, the table of findings, and what the READMEs promise to a stranger."""

import re
import shutil
from pathlib import Path

import pytest

from docs import findings, read

REPO = Path(__file__).parent.parent
FOLDERS = sorted(p.parent for p in REPO.glob("*/train.py"))
READINGS = sorted([*REPO.glob("*/reading.md"), *REPO.glob("common/*/reading.md")])


def of(path):
    return str(path.parent.relative_to(REPO))


# --- reading pages


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_every_symbol_of_the_table_is_read_once(folder):
    _, _, pieces = read.parse((folder / "reading.md").read_text())
    keys = [(file, symbol) for piece in pieces for file, symbol, banner in piece.keys if not banner]
    assert len(keys) == len(set(keys)), "a symbol stands twice"
    with_banner = {(file, symbol) for piece in pieces for file, symbol, b in piece.keys if b}
    table = read.table_keys((folder / "README.md").read_text())
    assert table
    for key in table:
        assert key in keys or key in with_banner, key


@pytest.mark.parametrize("path", READINGS, ids=of)
def test_every_piece_has_code_and_text(path):
    _, introduction, pieces = read.parse(path.read_text())
    assert introduction and len(pieces) >= 10
    for piece in pieces:
        assert piece.keys, piece.title
        prose = re.sub(r"\$\$.*?\$\$", "", piece.text, flags=re.S)
        assert len(prose.split()) >= 12, f"{piece.title}: no text"
        for key in piece.keys:
            assert read.find(path.parent, *key).source.strip()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_the_loop_is_read_by_its_banners(folder):
    _, _, pieces = read.parse((folder / "reading.md").read_text())
    banners = " ".join(b for piece in pieces for file, _, b in piece.keys if file == "train.py")
    for needed in ("data", "networks", "Algorithm", "log"):
        assert needed in banners


def test_a_banner_ends_where_the_next_begins(tmp_path):
    (tmp_path / "t.py").write_text(
        "X = 1\n\n\ndef main():\n    a = 1\n\n    # --- data\n    b = 2\n\n    # --- end (x)\n    c = 3\n\n\nY: int = 2\n"
    )
    data = read.find(tmp_path, "t.py", "main", "data")
    assert (data.first, data.last, data.source) == (7, 8, "    # --- data\n    b = 2")
    assert read.find(tmp_path, "t.py", "main", "end").source == "    # --- end (x)\n    c = 3"
    assert read.find(tmp_path, "t.py", "Y").source == "Y: int = 2"
    for key in (("t.py", "Z"), ("t.py", "main", "dat a"), ("u.py", "main")):
        with pytest.raises(SystemExit, match="error: "):
            read.find(tmp_path, *key)


def test_methods_and_decorators_are_found(tmp_path):
    (tmp_path / "t.py").write_text("class A:\n    @staticmethod\n    def f():\n        pass\n")
    code = read.find(tmp_path, "t.py", "A.f")
    assert (code.first, code.last) == (2, 4)


def test_departures_as_the_readme_words_them():
    readme = "## Departures\n\n1. One\n   line.\n2. Two.\n\n## Next\n\n3. Not one.\n"
    assert read.departures(readme) == {1: "One line.", 2: "Two."}
    assert read.marked("x  # departure 2\ny  # departures 3, 7 and 12: why\n# departure 2") == [
        2,
        3,
        7,
        12,
    ]


def test_the_pages_are_built(tmp_path):
    if not shutil.which("node") or not read.KATEX.is_dir():
        pytest.skip("KaTeX is not there: make read")
    pages = read.build(tmp_path)
    assert {"index", "metrics", *(folder.name for folder in FOLDERS)} == set(pages)
    for name in pages:
        text = (tmp_path / f"{name}.html").read_text()
        assert "@@" not in text and "<script" not in text
        assert not re.search(r'(?:src|href)="https?:', text), "needs the network"
        if name != "index":
            assert 'class="katex-display"' in text and text.count("<section>") >= 10
    began = (tmp_path / "began.html").read_text()
    assert ">update_k<" in began and "Departure 2." in began
    css = (tmp_path / "katex" / "katex.min.css").read_text()
    for font in re.findall(r"url\(([^)]+)\)", css):
        assert (tmp_path / "katex" / font).is_file()


def test_formulas_side_by_side_go_below_each_other_where_there_is_no_room():
    renderer = read.Renderer()
    body = renderer.block(r"$$a, \qquad b$$" + "\n\n" + r"$\qquad c$")
    assert '<div class="formulas">@@0@@@@1@@</div>' in body
    assert renderer.formulas == [["a, ", True], [" b", True], [r"\qquad c", False]]


def test_a_formula_that_katex_refuses_ends_it():
    if not shutil.which("node") or not read.KATEX.is_dir():
        pytest.skip("KaTeX is not there: make read")
    renderer = read.Renderer()
    body = renderer.block(r"$$\notacommand{x}$$")
    with pytest.raises(SystemExit, match="notacommand"):
        renderer.finish({"page": body})


# --- findings


def test_the_top_readme_has_the_folders_findings():
    text = (REPO / "README.md").read_text()
    assert findings.exchange(text, findings.collect()) == text, "run: make findings"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_findings_are_claims_with_verdicts(folder):
    lines = findings.read_table(folder / "README.md")
    assert len(lines) >= 5
    for line in lines:
        assert len(line["claim"].split()) >= 4 and line["where"]
        if line["verdict"] == "not run":
            assert line["seeds"] == "–", line
        else:  # "–" seeds: nothing is drawn by chance
            assert line["ours"] != "–" and line["seeds"], line


def test_a_table_that_is_no_table_of_findings_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    head = "## What we found\n\n| claim | where | verdict | ours | paper | seeds |\n|---|---|---|---|---|---|\n"
    readme.write_text(head + r"| a \| b | §1 | holds | 1 | 2 | 3 |" + "\n\n## Next\n| x |\n")
    assert findings.read_table(readme) == [
        dict(claim=r"a \| b", where="§1", verdict="holds", ours="1", paper="2", seeds="3")
    ]
    for row in ("| a | §1 | true | 1 | 2 | 3 |", "| a | §1 | holds | 1 | 2 |"):
        readme.write_text(head + row + "\n")
        with pytest.raises(SystemExit, match="error: "):
            findings.read_table(readme)
    readme.write_text("## What we found\n\nnothing\n")
    with pytest.raises(SystemExit, match="no table"):
        findings.read_table(readme)


def test_the_summary_counts_verdicts():
    line = dict.fromkeys(findings.COLUMNS, "x")
    found = {"a": [line | {"verdict": v} for v in ("holds", "holds", "does not hold")]}
    text = findings.render(found | {"b": [line | {"verdict": "not run"}]})
    head = text.split("<details>")[0].splitlines()
    assert head[0] == "| verdict: | holds | partly | does not hold | not run |"
    assert head[2:] == [
        "| [a](a/README.md#what-we-found) | 2 | 0 | 1 | 0 |",
        "| [b](b/README.md#what-we-found) | 0 | 0 | 0 | 1 |",
        "| **all** | 2 | 0 | 1 | 1 |",
        "",
    ]
    assert "<details><summary>a: 3 claims, one by one</summary>\n\n| claim | where |" in text
    assert text.count("| x | x | holds | x | x | x |") == 2 and text.count("</details>") == 2
