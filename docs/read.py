"""Reading pages: what a paper says beside the code that computes it. From the repository's root:

  make read                      builds docs/read/index.html and a page per folder; needs node
  python -m docs.read --out DIR

A page is made of <folder>/reading.md. A piece of it is a heading, a line of keys `file.py::symbol`,
and text; the page shows the symbols' code as it stands, and each departure that the code marks as
the README words it. `train.py::main # --- Algorithm` is the part of main below that banner.
Formulas are rendered here (KaTeX), so that a page has no script and needs no network.
"""

import argparse
import ast
import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

REPO = Path(__file__).resolve().parent.parent
KATEX = REPO / "docs" / "node_modules" / "katex"
KEY = re.compile(r"`([\w./]+\.py)::([\w.]+)(?: # --- ([^`]+))?`")
DEPARTURE = re.compile(r"departures? (\d+)((?:(?:, | and )\d+)*)")


@dataclass
class Piece:
    title: str
    keys: list  # (file, symbol, banner or "")
    text: str


@dataclass
class Code:
    path: Path
    first: int  # line numbers, inclusive
    last: int
    source: str


# --- reading.md


def parse(text):
    """(title, introduction, pieces) of a reading.md."""
    head, *parts = re.split(r"^## ", text, flags=re.M)
    title, _, introduction = head.removeprefix("# ").partition("\n")
    pieces = []
    for part in parts:
        heading, keys, *paragraphs = (*part.strip().split("\n\n"), "")
        pieces.append(Piece(heading, KEY.findall(keys), "\n\n".join(paragraphs).strip()))
        if KEY.sub("", keys).strip():
            raise SystemExit(f"error: {heading}: only keys may stand in the line {keys!r}")
    return title.strip(), introduction.strip(), pieces


def find(folder, file, symbol, banner=""):
    """The code of a key. file: relative to the folder, or else to the repository."""
    path = folder / file if (folder / file).exists() else REPO / file
    if not path.exists():
        raise SystemExit(f"error: {folder.name}/reading.md: there is no {file}")
    source = path.read_text()
    node = ast.parse(source)
    for name in symbol.split("."):
        node = _member(node, name)
        if node is None:
            raise SystemExit(f"error: {folder.name}/reading.md: {file} has no {symbol}")
    lines = source.splitlines()
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    last = node.end_lineno
    if banner:
        first, last = _below_banner(lines, first, last, banner, f"{file}::{symbol}")
    return Code(path, first, last, "\n".join(lines[first - 1 : last]))


def _member(node, name):
    for child in node.body:
        targets = getattr(child, "targets", None) or [getattr(child, "target", None)]
        if name in [getattr(child, "name", None), *(getattr(t, "id", None) for t in targets)]:
            return child
    return None


def _below_banner(lines, first, last, banner, where):
    """The lines of a banner `# --- …` within lines first to last, up to the next one."""
    banners = [n for n in range(first, last + 1) if lines[n - 1].lstrip().startswith("# --- ")]
    for n, after in zip(banners, [*banners[1:], last + 1]):
        if lines[n - 1].strip().removeprefix("# --- ").startswith(banner):
            while not lines[after - 2].strip():
                after -= 1
            return n, after - 1
    raise SystemExit(f"error: {where} has no banner '# --- {banner}'")


def departures(readme):
    """{number: text} of a README's numbered departures."""
    _, _, rest = readme.partition("## Departures")
    section = rest.partition("\n## ")[0]
    items = re.findall(r"^(\d+)\. (.*(?:\n {2,}.*)*)", section, flags=re.M)
    return {int(number): " ".join(text.split()) for number, text in items}


def table_keys(readme):
    """The symbols that a README's table "Paper and code" names."""
    _, _, rest = readme.partition("## Paper and code")
    table = rest.partition("\n## ")[0]
    rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    return [(file, symbol) for file, symbol, _ in KEY.findall(rows)]


# --- HTML

STYLE = """
:root { --ink: #222; --pale: #666; --line: #ddd; --code: #f7f7f5; --mark: #fff6dd }
body { margin: 0; font: 17px/1.55 Georgia, serif; color: var(--ink) }
nav { padding: .6rem 2rem; border-bottom: 1px solid var(--line); font-size: 15px }
nav a, .where a { color: var(--pale) } nav a { margin-right: 1rem; display: inline-block }
main { max-width: 1560px; margin: auto; padding: 1rem 2rem 4rem }
header { max-width: 46rem }
section { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1.5fr); gap: 2.2rem;
  border-top: 1px solid var(--line); padding: 1rem 0 }
.says { position: sticky; top: 1rem; align-self: start }
h1 { font-size: 1.6rem; line-height: 1.25 } h2 { margin: 0 0 .4rem; font-size: 1.2rem }
pre { font-size: clamp(11px, .86vw, 12.5px); line-height: 1.45; overflow-x: auto;
  font-family: 'DejaVu Sans Mono', Menlo, Consolas, monospace;
  background: var(--code); padding: .7rem .9rem; margin: 0 0 1rem }
.katex { font-size: 1.08em }
code { font: .85em 'DejaVu Sans Mono', Menlo, Consolas, monospace }
.where { font: 12px 'DejaVu Sans Mono', Menlo, Consolas, monospace; margin: .2rem 0 }
.departure { background: var(--mark); padding: .5rem .8rem; font-size: .9em }
.formulas { display: flex; flex-wrap: wrap; justify-content: center; column-gap: 2.4em;
  margin: 1rem 0 }
.formulas .katex-display { overflow-x: auto; overflow-y: hidden; padding: .2rem 4px; margin: 0 }
.katex-display > .katex { white-space: normal } .katex-display .base { margin: .2em 0 }
@media (max-width: 1250px) { section { grid-template-columns: minmax(0, 1fr); gap: .6rem }
  .says { position: static } pre { font-size: 12.5px } }
@media (max-width: 860px) { pre { white-space: pre-wrap }
  main, nav { padding-left: 1rem; padding-right: 1rem } }
"""


class Renderer:
    """Markdown and code to HTML. A formula leaves a mark, which `finish` replaces."""

    def __init__(self, url="../.."):
        self.url = url  # of the repository, for links to code
        self.formulas = []  # [TeX, display?]
        self.markdown = MarkdownIt("commonmark").enable("table")
        self.markdown.use(dollarmath_plugin, renderer=self._formula, allow_space=False)
        self.formatter = HtmlFormatter(style="friendly")

    def _formula(self, tex, options):
        if not options["display_mode"]:
            return self._mark(tex, False)
        parts = [self._mark(part, True) for part in re.split(r"\\qquad(?![a-zA-Z])", tex)]
        return f'<div class="formulas">{"".join(parts)}</div>'  # side by side where there is room

    def _mark(self, tex, display):
        self.formulas.append([tex, display])
        return f"@@{len(self.formulas) - 1}@@"

    def block(self, text):
        return self.markdown.render(text)

    def inline(self, text):
        return self.markdown.renderInline(text)

    def code(self, code):
        name = code.path.relative_to(REPO)
        link = f'<a href="{self.url}/{name}#L{code.first}-L{code.last}">{name}:{code.first}</a>'
        return f'<p class="where">{link}</p>' + highlight(
            code.source, PythonLexer(), self.formatter
        )

    def finish(self, pages):
        """The pages with their formulas, all rendered by one call of node."""
        run = subprocess.run(
            ["node", str(REPO / "docs" / "katex.js")],
            input=json.dumps(self.formulas),
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise SystemExit(f"error: KaTeX refused a formula. {run.stderr.strip()[-800:]}")
        rendered = json.loads(run.stdout)
        return {
            name: re.sub(r"@@(\d+)@@", lambda mark: rendered[int(mark[1])], page)
            for name, page in pages.items()
        }


def page(renderer, title, body, names):
    links = "".join(f'<a href="{name}.html">{name}</a>' for name in ["index", *names])
    style = STYLE + renderer.formatter.get_style_defs(".highlight")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>"
        f'<link rel="stylesheet" href="katex/katex.min.css"><style>{style}</style>'
        f"<nav>{links}</nav><main>{body}</main></html>"
    )


def reading(renderer, folder):
    """(title, body) of a folder's page."""
    title, introduction, pieces = parse((folder / "reading.md").read_text())
    readme = folder / "README.md"
    known = departures(readme.read_text()) if readme.exists() else {}
    body = [f"<header><h1>{renderer.inline(title)}</h1>{renderer.block(introduction)}</header>"]
    for piece in pieces:
        codes = [find(folder, *key) for key in piece.keys]
        says = [f"<h2>{renderer.inline(piece.title)}</h2>", renderer.block(piece.text)]
        for number in marked("\n".join(code.source for code in codes)):
            if number in known:
                note = renderer.inline(f"**Departure {number}.** {known[number]}")
                says.append(f'<p class="departure">{note}</p>')
        shown = "".join(renderer.code(code) for code in codes)
        body.append(f'<section><div class="says">{"".join(says)}</div><div>{shown}</div></section>')
    return title, "".join(body)


def marked(source):
    """The numbers of the departures that code marks, in order."""
    found = []
    for first, more in DEPARTURE.findall(source):
        found += [int(first), *map(int, re.findall(r"\d+", more))]
    return list(dict.fromkeys(found))


def sources():
    """{page's name: folder} of all that have a reading.md, papers first."""
    found = {p.parent.name: p.parent for p in sorted(REPO.glob("*/reading.md"))}
    return found | {p.parent.name: p.parent for p in sorted(REPO.glob("common/*/reading.md"))}


def build(out, url="../.."):
    """Write all pages into the folder `out`; code is linked below `url`."""
    if not KATEX.is_dir() or not shutil.which("node"):
        raise SystemExit("error: KaTeX is not there: install node and run `make read`, or npm ci")
    renderer = Renderer(url)
    folders = sources()
    pages = {}
    contents = []
    for name, folder in folders.items():
        title, body = reading(renderer, folder)
        pages[name] = page(renderer, title, body, folders)
        contents.append(f'<li><a href="{name}.html">{renderer.inline(title)}</a></li>')
    body = f"<header><h1>The papers beside their code</h1><ul>{''.join(contents)}</ul></header>"
    pages["index"] = page(renderer, "The papers beside their code", body, folders)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in renderer.finish(pages).items():
        (out / f"{name}.html").write_text(text)
    (out / "katex" / "fonts").mkdir(parents=True, exist_ok=True)
    css = (KATEX / "dist" / "katex.min.css").read_text()
    css = re.sub(r",url\([^)]*\.(?:woff|ttf)\) format\(\"\w+\"\)", "", css)  # woff2 is enough
    (out / "katex" / "katex.min.css").write_text(css)
    for font in (KATEX / "dist" / "fonts").glob("*.woff2"):
        shutil.copy(font, out / "katex" / "fonts")
    return pages


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "read")
    parser.add_argument(
        "--url", default="../..", help="the repository, which links to code lead to"
    )
    args = parser.parse_args(argv)
    pages = build(args.out, args.url)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{len(pages)} pages in {args.out}, {size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
