"""One self-contained HTML page of a run: results, pictures, warnings, and everything needed to repeat it.

Plain semantic HTML with images inside the file: nothing is loaded from elsewhere, nothing is executed.
"""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Picture(NamedTuple):
    """An image file (PNG, GIF or JPEG) on the page."""

    path: Path
    alt: str  # description for screen readers
    caption: str


@dataclasses.dataclass(frozen=True)
class RunPage:
    """Content of the page; all text is escaped."""

    title: str
    summary: str  # one or two sentences
    command: str  # what to type to repeat the run
    config: str  # resolved config as text
    versions: Mapping[str, str]
    results: Sequence[Mapping[str, str | float]] = ()  # rows of a table; the first column names the row
    warnings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --muted: #5d6577; --rule: #dfe3ea; --paper: #fff; --panel: #f5f6f9;
  --warn: #fff4e5; --warn-rule: #e07b39; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaf0; --muted: #a3abbd; --rule: #39404f; --paper: #161a22;
  --panel: #1f242f; --warn: #33271a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; margin: 1rem 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
header p { color: var(--muted); margin: 0; max-width: 44rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem 1rem .45rem 0; text-align: left; border-bottom: 1px solid var(--rule); white-space: nowrap; }
thead th { color: var(--muted); font-weight: 500; }
tbody th { font-weight: 600; }
.number { text-align: right; }
figure { margin: 0 0 2rem; }
img { display: block; height: auto; max-width: 100%; border: 1px solid var(--rule); border-radius: 6px;
  background: #fff; }
@media (max-width: 46rem) { .wide { max-width: none; width: 46rem; } } /* to be scrolled, not squinted at */
figcaption { color: var(--muted); font-size: .92rem; margin-top: .5rem; max-width: 44rem; }
pre { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, monospace; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-rule); border-radius: 6px; margin: 1.5rem 0;
  padding: .8rem 1rem; }
.warnings h2 { margin: 0 0 .25rem; font-size: 1rem; } .warnings ul { margin: 0; padding-left: 1.2rem; }
summary { cursor: pointer; }
"""


def write_page(path: Path, page: RunPage) -> Path:
    """Writes `page` as one HTML file.

    Raises:
        FileNotFoundError: a picture does not exist.
        PIL.UnidentifiedImageError: a picture is no image.
    """
    sections = [
        _warnings(page.warnings),
        _results(page.results),
        _pictures(page.pictures),
        f"<section>\n<h2>Repeat this run</h2>\n{_scroll_text(page.command, 'Command')}\n</section>",
        _versions(page.versions),
        "<section>\n<h2>Configuration</h2>\n<details>\n<summary>Every resolved value</summary>\n"
        f"{_scroll_text(page.config, 'Resolved configuration')}\n</details>\n</section>",
    ]
    Path(path).write_text(
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(page.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(page.title)}</h1>
<p>{escape(page.summary)}</p>
</header>
<main>
{chr(10).join(section for section in sections if section)}
</main>
</body>
</html>
""",
        encoding="utf-8",
    )
    return Path(path)


def _scroll_text(text: str, name: str) -> str:
    """Preformatted text that a keyboard can scroll."""
    return f'<pre tabindex="0" role="region" aria-label="{escape(name)}">{escape(text)}</pre>'


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "\n".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<section class="warnings">\n<h2>Warnings</h2>\n<ul>\n{items}\n</ul>\n</section>'


def _results(rows: Sequence[Mapping[str, str | float]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {column for column in columns[1:] if not any(isinstance(row.get(column), str) for row in rows)}

    def cell(row: Mapping[str, str | float], column: str) -> str:
        value = row.get(column, "–")
        text = escape(f"{value:.1f}" if isinstance(value, float) else str(value))
        if column == columns[0]:
            return f'<th scope="row">{text}</th>'
        return f'<td class="number">{text}</td>' if column in numeric else f"<td>{text}</td>"

    head = "".join(
        f'<th scope="col"{" class=number" if column in numeric else ""}>{escape(column)}</th>' for column in columns
    )
    body = "\n".join("<tr>" + "".join(cell(row, column) for column in columns) + "</tr>" for row in rows)
    return (
        '<section>\n<h2>Results</h2>\n<div class="scroll" tabindex="0" role="region" aria-label="Results">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n</section>"
    )


def _pictures(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = []
    for picture in pictures:
        content = Path(picture.path).read_bytes()
        image = Image.open(io.BytesIO(content))
        data = base64.b64encode(content).decode("ascii")
        wide = 'class="wide" ' if image.width > 800 else ""
        figures.append(
            f'<figure>\n<div class="scroll" tabindex="0" role="region" aria-label="{escape(picture.caption)}">\n'
            f'<img {wide}width="{image.width}" height="{image.height}" alt="{escape(picture.alt)}" '
            f'src="data:{image.get_format_mimetype()};base64,{data}">\n</div>\n'
            f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
        )
    return "<section>\n<h2>Pictures</h2>\n" + "\n".join(figures) + "\n</section>"


def _versions(versions: Mapping[str, str]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(version)}</td></tr>' for name, version in versions.items()
    )
    return f"<section>\n<h2>Versions</h2>\n<table>\n<tbody>\n{rows}\n</tbody>\n</table>\n</section>"
