"""One self-contained HTML page with all tables and pictures: no script, no outside resource, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined

from mwray.reports.draw import png
from mwray.reports.significance import Paired, compare
from mwray.reports.table_draw import dots
from mwray.reports.tables import MEASURES, Table, TableCell
from mwray.reports.text import MINUS, SIGNIFICANCE, difference_text, ours_text, paper_text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5c5c5c; --paper: #ffffff; --line: #dcdcdc; --band: #f5f6f8;
  --best: #0b63a5; --good: #00694c; --bad: #a54000; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a6a6a6; --paper: #16181c; --line: #363a42;
  --band: #1f2228; --best: #7cc4f5; --good: #5fd3a8; --bad: #f2a56b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 78rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
p, li, figcaption, summary { max-width: 62rem; } .soft, figcaption { color: var(--soft); font-size: .9rem; }
a { color: var(--best); } nav ul { columns: 18rem; padding-left: 1.2rem; } nav li { break-inside: avoid; }
.wide { overflow-x: auto; width: fit-content; max-width: 100%; border: 1px solid var(--line); border-radius: 6px;
  margin: .6rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; min-width: 30%; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { background: var(--band); font-weight: 600; }
tbody th { text-align: left; position: sticky; left: 0; background: var(--paper); font-weight: 500; white-space: normal;
  min-width: 7.5rem; }
tbody tr:last-child > * { border-bottom: 0; } td small { display: block; color: var(--soft); }
.first { color: var(--best); font-weight: 700; } .second { text-decoration: underline; text-underline-offset: 3px; }
.within { color: var(--good); } .outside { color: var(--bad); } .missing { color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
figure { margin: .6rem 0; max-width: 100%; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; border: 1px solid var(--line);
  padding: .5rem; }
details { margin: .6rem 0; } summary { cursor: pointer; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>{{ style | safe }}</style></head><body>
<h1>{{ title }}</h1>
<p class="soft">{{ made }}</p>
<nav><ul>
{% for section in sections %}<li><a href="#{{ section.anchor }}">{{ section.heading }}</a></li>
{% endfor %}</ul></nav>
{% for section in sections %}
<section id="{{ section.anchor }}"><h2>{{ section.heading }}</h2>
{% if section.table %}{% set table = section.table %}
<p class="soft">{{ table.caption }} Best: <span class="first">blue</span>; second best:
<span class="second">underlined</span>.{% if table.has_paper %} Small: the paper's number, and ours minus it
(<span class="within">within</span> or <span class="outside">outside</span> the paper's spread).{% endif %}</p>
{% if table.note %}<p class="soft">{{ table.note }}</p>{% endif %}
<div class="figures"><div class="wide" tabindex="0"><table><thead>
<tr><th></th>{% for name, columns in table.columns | groupby("dataset") %}
<th colspan="{{ columns | length }}" style="text-align:center">{{ name }}</th>{% endfor %}</tr>
<tr><th style="text-align:left">method</th>
{% for name, columns in table.columns | groupby("dataset") %}{% for column in columns %}<th>{{ column.bias }}</th>
{% endfor %}{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}<tr><th>{{ row }}</th>
{% for name, columns in table.columns | groupby("dataset") %}{% for column in columns %}
{% set cell = table.cells[row, column] %}
<td>{{ mine(cell) | safe }}{% if cell.paper %}<small>{{ paper(cell) }}</small>{% endif %}{{ gap(cell) | safe }}</td>
{% endfor %}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{{ figures(section) | safe }}</div>
{% if table.missing %}<p class="soft">{{ table.missing | length }} of {{ table.cells | length }} cells have no finished
run.</p>{% endif %}
{% if section.pairs %}<details><summary>Is {{ section.pairs[0].row }} better
than the others? Paired tests over seeds</summary>
<p class="soft">{{ significance }}</p>
<div class="wide" tabindex="0"><table><thead><tr><th style="text-align:left">against</th><th>column</th><th>seeds</th>
<th>difference, points</th><th>95 % interval</th><th>p, t-test</th><th>adjusted</th><th>p, Wilcoxon</th></tr></thead>
<tbody>
{% for pair in section.pairs %}<tr><th>{{ pair.against }}</th><td>{{ pair.column }}</td><td>{{ pair.n }}</td>
<td>{{ signed(pair.difference) }}</td><td>{{ signed(pair.interval[0]) }} to {{ signed(pair.interval[1]) }}</td>
<td>{{ "%.3g" | format(pair.t_p) }}</td><td>{{ "%.3g" | format(pair.adjusted_p) }}</td>
<td>{{ "%.3g" | format(pair.wilcoxon_p) }}</td></tr>
{% endfor %}</tbody></table></div></details>{% endif %}{% endif %}
{% if not section.table %}<div class="figures">{{ figures(section) | safe }}</div>{% endif %}
</section>
{% endfor %}
</body></html>
"""


FIGURES = """{% for picture in pictures %}<figure style="width: {{ picture.width }}px"><img alt="{{ picture.caption }}"
src="data:image/png;base64,{{ picture.data }}"><figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}"""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows."""

    name: str
    """Of its file, without ending."""
    caption: str
    png: bytes

    @property
    def data(self) -> str:
        """The PNG as text."""
        return base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:
        """CSS pixels at which an inch of it is about an inch: pictures have 200 dots an inch, the page some 110."""
        return round(int.from_bytes(self.png[16:20], "big") * 0.55)


@dataclass(frozen=True)
class Section:
    """A part of the page: a table, pictures, or both."""

    anchor: str
    heading: str
    table: Table | None = None
    pairs: Sequence[Paired] = ()
    pictures: Sequence[Picture] = ()


def table_section(table: Table) -> Section:
    """A table with its paired tests."""
    anchor = f"table-{table.name}-{table.preset}".replace(" ", "-")
    drawn = () if len(table.missing) == len(table.cells) else (_drawn(table),)
    return Section(anchor, table.heading, table, compare(table), drawn)


def _drawn(table: Table) -> Picture:
    stem = f"table-{table.name}-{table.preset}".replace(" ", "-")
    text = f"{table.heading}: {MEASURES[table.measure]}, mean and sample standard deviation over seeds."
    return Picture(stem, text, png(dots(table)))


def page(title: str, made: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML; text is escaped, pictures are inside."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)

    def figures(section: Section) -> str:
        return environment.from_string(FIGURES).render(pictures=section.pictures)

    helpers: Mapping[str, Any] = {"figures": figures, "mine": _mine, "paper": _paper, "gap": _gap, "signed": _signed}
    return environment.from_string(PAGE).render(
        title=title, made=made, sections=sections, style=STYLE, significance=SIGNIFICANCE, **helpers
    )


def _mine(cell: TableCell) -> str:
    if cell.ours is None:
        return '<span class="missing">missing</span>'
    mark = {1: "first", 2: "second"}.get(cell.place or 0, "")
    return f'<span class="{mark}">{ours_text(cell.ours)}</span>'


def _paper(cell: TableCell) -> str:
    return f"paper {paper_text(cell.paper)}"


def _gap(cell: TableCell) -> str:
    if cell.difference is None:
        return ""
    mark = {True: "within", False: "outside"}.get(cell.within, "") if cell.within is not None else ""
    return f'<small class="{mark}">{difference_text(cell).split(",")[0]}</small>'


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else MINUS}{abs(value):.2f}"
