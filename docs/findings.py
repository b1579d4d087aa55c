"""Collect the folders' tables "What we found" in the top README. From the repository's root:

  make findings             rewrites what stands between README.md's two marks

Every claim of every paper has a line there, and the folders' READMEs are the only place where one
is written. A test holds the two together.
"""

import re
from collections import Counter
from pathlib import Path

from common.evaluate import markdown_table

REPO = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- findings: made by `make findings` -->", "<!-- end of findings -->"
COLUMNS = ["claim", "where", "verdict", "ours", "paper", "seeds"]
VERDICTS = ["holds", "partly", "does not hold", "not run"]


def read_table(readme):
    """The lines of a README's table, as dicts of COLUMNS."""
    section = readme.read_text().partition("## What we found\n")[2].partition("\n## ")[0]
    table = re.search(r"(?:^\|.*\|\n)+", section, flags=re.M)
    if not table:
        raise SystemExit(f"error: {readme}: no table below 'What we found'")
    header, _, *rows = (cells(line) for line in table[0].splitlines())
    if header != COLUMNS:
        raise SystemExit(f"error: {readme}: the columns are {header}, not {COLUMNS}")
    for row in rows:
        if len(row) != len(COLUMNS) or row[2] not in VERDICTS:
            raise SystemExit(f"error: {readme}: {row} has no verdict of {VERDICTS}, or other cells")
    return [dict(zip(COLUMNS, row)) for row in rows]


def cells(line):
    r"""The cells of a table's line; "\|" is a bar inside of one."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def collect():
    """{folder: its lines}, of all folders."""
    return {
        p.parent.name: read_table(p.with_name("README.md")) for p in sorted(REPO.glob("*/train.py"))
    }


def render(found):
    """How many claims hold, by folder, and each folder's table, folded away, in Markdown."""
    counts = {folder: Counter(line["verdict"] for line in lines) for folder, lines in found.items()}
    links = {folder: f"[{folder}]({folder}/README.md#what-we-found)" for folder in found}
    rows = [[links[folder], *(of[v] for v in VERDICTS)] for folder, of in counts.items()]
    rows.append(["**all**", *(sum(of[v] for of in counts.values()) for v in VERDICTS)])
    parts = [markdown_table(["verdict:", *VERDICTS], rows)]
    for folder, lines in found.items():
        table = markdown_table(COLUMNS, [line.values() for line in lines])
        title = f"<summary>{folder}: {len(lines)} claims, one by one</summary>"
        parts.append(f"<details>{title}\n\n{table}\n</details>\n")
    return "\n".join(parts)


def exchange(text, found):
    """The top README's text with the table made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{render(found)}\n{END}{rest.split(END)[1]}"


def main():
    readme = REPO / "README.md"
    readme.write_text(exchange(readme.read_text(), collect()))


if __name__ == "__main__":
    main()
