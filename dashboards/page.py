"""A dashboard as one HTML file that needs no network: for machines without VMUI and Grafana, and to keep beside an
incident.

    python -m dashboards.page get --url http://127.0.0.1:8428 --directory reports/dashboards [--robot robot-1]

playbooks/dashboards.yml does the same with a hub that only answers on its own 127.0.0.1, in three steps: `ask` prints
what to ask, the module range_queries asks the hub, `draw` makes the files of the answers.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from dashboards import FLEET, ROBOT, answers
from dashboards.answers import Period, Series
from dashboards.model import UNITS, Dashboard, Panel, Scale, Thresholds, Unit, promql, queries

HERE = Path(__file__).parent
COLOURS = (
    "#3366b8", "#e07b00", "#2e9960", "#9b4fb5", "#00a0b0", "#c2a100", "#d6558b", "#7a5230", "#6f7d8c", "#8fb32e",
)  # fmt: skip
LEVELS = {"ok": "#1a7f4b", "warning": "#e69100", "critical": "#c62828"}
GRID, TEXT = "#edf0f3", "#6b7785"
NOTHING = "-"
DAY_SECONDS = 86400

Answers = list[list[dict[str, Any]]]
"""The series of each query of a dashboard, as VictoriaMetrics answers."""


@dataclass(frozen=True)
class Subject:
    """What a page is about: the fleet, or one robot; and the machine that was asked."""

    robot: str | None
    source: str

    @property
    def dashboard(self) -> Dashboard:
        """Which dashboard the page draws."""
        return ROBOT if self.robot else FLEET

    @property
    def title(self) -> str:
        """The page's heading."""
        return f"Roverwatch: {self.robot or 'fleet'}"

    @property
    def filename(self) -> str:
        """The page's file in the reports' directory."""
        return f"{self.robot or FLEET.name}.html"


def render(subject: Subject, period: Period, found: Answers) -> str:
    """The page. `found` has an answer for each of the dashboard's queries, in the order of `dashboards.queries`."""
    left = iter(found)
    figures: dict[str, Any] = {}
    rows = []
    for row in subject.dashboard.rows:
        panels = []
        for panel in row.panels:
            drawn = _Drawn.of(panel, list(islice(left, len(panel.queries))), period)
            identifier = f"figure-{len(figures)}"
            panels.append(_panel_html(drawn, identifier, subject.robot))
            if drawn.series and panel.draw != "table":
                figures[identifier] = {"data": drawn.traces(), "layout": drawn.layout()}
        rows.append(f'<h2>{html.escape(row.title)}</h2>\n<div class="row">\n{"".join(panels)}</div>\n')
    return _document(subject, period, "".join(rows), figures)


@dataclass(frozen=True)
class _Drawn:
    """A panel with its series, and the scale that its values are shown in."""

    panel: Panel
    period: Period
    series: list[Series]
    scale: Scale

    @classmethod
    def of(cls, panel: Panel, found: Answers, period: Period) -> _Drawn:
        times = period.times()
        series = [
            one
            for query, answer in zip(panel.queries, found, strict=True)
            for one in answers.series_of(query, answer, times)
        ]
        highest = max((abs(value) for one in series for value in one.values if value is not None), default=0)
        if panel.thresholds and panel.draw != "stat":
            highest = max(highest, panel.thresholds.warning)
        return cls(panel, period, series, UNITS[panel.unit].scale(highest))

    def traces(self) -> list[dict[str, Any]]:
        """The lines or bars, as Plotly takes them."""
        times = [_utc(point).strftime("%Y-%m-%d %H:%M:%S") for point in self.period.times()]
        shown = self.series[:1] if self.panel.draw == "stat" else self.series
        return [self._trace(one, times, colour) for one, colour in zip(shown, self.colours(), strict=False)]

    def colours(self) -> list[str]:
        """A colour for each series."""
        return [
            LEVELS["critical"] if one.limit else COLOURS[number % len(COLOURS)]
            for number, one in enumerate(self.series)
        ]

    def layout(self) -> dict[str, Any]:
        """Axes and threshold lines."""
        first, last = (_utc(point).isoformat(sep=" ") for point in (self.period.start, self.period.end))
        is_stat = self.panel.draw == "stat"
        x: dict[str, Any] = {
            "type": "date",
            "range": [first, last],
            "gridcolor": GRID,
            "zeroline": False,
            "fixedrange": is_stat,
            "tickformat": "%H:%M" if self.period.end - self.period.start <= DAY_SECONDS else "%d %b\n%H:%M",
            "nticks": 7,
        }
        y: dict[str, Any] = {
            "range": self._y_range(),
            "ticksuffix": f" {self.scale.suffix}".rstrip(),
            "gridcolor": GRID,
            "zeroline": False,
            "fixedrange": True,
            "nticks": 5,
            "automargin": True,
        }
        hidden = {"visible": False} if is_stat else {}
        margin = (
            {"l": 0, "r": 0, "t": 0, "b": 0}
            if is_stat
            else {"l": 8, "r": 8, "t": 8, "b": 22 if self.period.end - self.period.start <= DAY_SECONDS else 34}
        )
        return {
            "xaxis": {**x, **hidden},
            "yaxis": {**y, **hidden},
            "margin": margin,
            "showlegend": False,
            "barmode": "stack",
            "hovermode": False if is_stat else "x unified",
            "hoverlabel": {"font": {"size": 11}},
            "font": {"size": 11, "color": TEXT},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "shapes": [] if is_stat else self._threshold_lines(),
        }

    def text(self, value: float | None) -> str:
        """A value of this panel for a person, in the scale that fits it alone."""
        return NOTHING if value is None else human(value, UNITS[self.panel.unit])

    def _trace(self, series: Series, times: list[str], colour: str) -> dict[str, Any]:
        values = [None if value is None else round(value / self.scale.factor, 6) for value in series.values]
        suffix = f" {self.scale.suffix}".rstrip()
        trace: dict[str, Any] = {
            "name": html.escape(series.name),
            "x": times,
            "y": values,
            "hovertemplate": f"%{{y:.4~g}}{suffix}",
        }
        if self.panel.draw == "bars":
            return {**trace, "type": "bar", "marker": {"color": colour}}
        line: dict[str, Any] = {"color": colour, "width": 1.6, "dash": "dash" if series.limit else "solid"}
        # A point between two gaps has no line to be seen by.
        mode = "lines+markers" if _has_lonely_point(values) else "lines"
        drawn: dict[str, Any] = {
            **trace,
            "type": "scatter",
            "mode": mode,
            "line": line,
            "marker": {"size": 4, "color": colour},
        }
        if self.panel.draw == "area":
            drawn |= {"stackgroup": "all", "line": {**line, "width": 0.8}}
        if self.panel.draw == "stat":
            drawn |= {"fill": "tozeroy", "fillcolor": "rgba(51,102,184,.12)"}
        return drawn

    def _y_range(self) -> list[float]:
        """From 0, or below where values are, to above the highest value and the thresholds that are near it."""
        columns = zip(*(one.values for one in self.series), strict=True)
        if self.panel.draw in ("area", "bars"):
            highest = max(sum(value or 0 for value in column) for column in columns)
        else:
            highest = max(value for one in self.series for value in one.values if value is not None)
        lowest = min(0, *(value for one in self.series for value in one.values if value is not None))
        if self.panel.thresholds and self.panel.draw != "stat":
            highest = max(highest, *self._near(self.panel.thresholds, highest))
            if self.panel.unit == "ratio":
                highest = max(highest, 1)
        top = highest * 1.06 if highest > 0 else 1 * self.scale.factor
        return [lowest * 1.06 / self.scale.factor, top / self.scale.factor]

    def _threshold_lines(self) -> list[dict[str, Any]]:
        thresholds = self.panel.thresholds
        if thresholds is None:
            return []
        top = self._y_range()[1] * self.scale.factor
        values = {thresholds.warning: "warning", thresholds.critical: "critical"}
        return [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": value / self.scale.factor,
                "y1": value / self.scale.factor,
                "line": {"color": LEVELS[level], "width": 1, "dash": "dot"},
            }
            for value, level in values.items()
            if value <= top
        ]

    @staticmethod
    def _near(thresholds: Thresholds, highest: float) -> list[float]:
        """The thresholds that a graph must show: the first to be passed, and the next once that is."""
        shown = [thresholds.warning]
        return [*shown, thresholds.critical] if highest >= thresholds.warning else shown


def human(value: float, unit: Unit) -> str:
    """Three digits that mean something, and the unit: 12.4 MiB."""
    scale = unit.scale(value)
    if value == 0:
        # Nothing of a unit is nothing of its base: 0 s, not 0 µs.
        scale = next((one for one in unit.scales if one.factor == 1), unit.fixed)
    number = value / scale.factor
    size = abs(number)
    text = f"{number:,.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"
    if 0.0001 < size < 1:
        text = f"{number:.4f}" if size < 0.1 else f"{number:.3f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {scale.suffix}".rstrip()


def _has_lonely_point(values: list[float | None]) -> bool:
    around = [None, *values, None]
    return any(
        value is not None and before is None and after is None
        for before, value, after in zip(around, around[1:], around[2:], strict=False)
    )


def _panel_html(drawn: _Drawn, identifier: str, robot: str | None) -> str:
    panel = drawn.panel
    title = html.escape(panel.title, quote=True)
    asked = "".join(f"<code>{html.escape(promql(query, robot))}</code>" for query in panel.queries)
    kind = "stat" if panel.draw == "stat" else "chart"
    return (
        f'<section class="panel {kind} w{panel.width}" data-panel="{title}">\n<h3>{title}</h3>\n'
        f"<details><summary>?</summary><div><p>{html.escape(panel.description)}</p>{asked}</div></details>\n"
        f"{_body_html(drawn, identifier)}</section>\n"
    )


def _body_html(drawn: _Drawn, identifier: str) -> str:
    panel = drawn.panel
    if panel.draw == "table":
        newest = [one for one in drawn.series if one.newest is not None]
        return _table_html(panel, newest, drawn) if newest else _empty_html(panel)
    if not drawn.series:
        return _empty_html(panel)
    graph = f'<div class="graph" id="{identifier}"></div>\n'
    if panel.draw == "stat":
        return _numbers_html(drawn) + graph
    return graph + _legend_html(drawn)


def _empty_html(panel: Panel) -> str:
    if panel.may_be_empty:
        return f'<p class="empty"><b>no data</b> {html.escape(panel.may_be_empty)}</p>\n'
    return '<p class="empty wrong"><b>no data</b> there should be some</p>\n'


def _numbers_html(drawn: _Drawn) -> str:
    numbers = []
    for one in drawn.series:
        level = ""
        if drawn.panel.thresholds and one.newest is not None:
            level = drawn.panel.thresholds.level(one.newest)
        text = f"<b>{drawn.text(one.newest)}</b><span>{html.escape(one.name)}</span>"
        numbers.append(f'<div class="number {level}">{text}</div>')
    return f'<div class="numbers">{"".join(numbers)}</div>\n'


def _legend_html(drawn: _Drawn) -> str:
    items = []
    for one, colour in zip(drawn.series, drawn.colours(), strict=True):
        swatch = (
            f'<i class="limit" style="color:{colour}"></i>' if one.limit else f'<i style="background:{colour}"></i>'
        )
        newest = "" if drawn.panel.draw == "bars" else f" <span>{drawn.text(one.newest)}</span>"
        items.append(f"<li>{swatch}{html.escape(one.name)}{newest}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>\n'


def _table_html(panel: Panel, rows: list[Series], drawn: _Drawn) -> str:
    headings = [*panel.labels, *([panel.value] if panel.value else [])]
    lines = []
    for one in rows:
        cells = [one.labels.get(label) or NOTHING for label in panel.labels]
        if panel.value:
            cells.append(drawn.text(one.newest))
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "\n".join(lines)
    return f'<div class="rows"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>\n'


def _document(subject: Subject, period: Period, body: str, figures: dict[str, Any]) -> str:
    title = html.escape(subject.title)
    start, end = _utc(period.start), _utc(period.end)
    until = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%d %b %Y %H:%M}"
    hours = human((period.end - period.start) / 3600, UNITS["count"])
    # The names in it are escaped, so nothing in it ends the script element.
    data = json.dumps(figures, separators=(",", ":"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{(HERE / "page.css").read_text()}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{html.escape(subject.dashboard.description)}</p>
<p class="range"><b>{start:%d %b %Y %H:%M} to {until} UTC</b> · {hours} h, a point each {period.step} s</p>
</header>
<main>
{body}</main>
<footer>Asked {html.escape(subject.source)} at {end:%Y-%m-%d %H:%M:%S} UTC. Drag in a graph to zoom all of them,
double-click to see all again; click a name to hide its line; ? has the queries.</footer>
<script>{get_plotlyjs()}</script>
<script id="figures" type="application/json">{data}</script>
<script>
{(HERE / "page.js").read_text()}</script>
</body>
</html>
"""


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def exprs(subject: Subject) -> list[str]:
    """What to ask for a page."""
    return [expr for _, expr, _ in queries(subject.dashboard, subject.robot)]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.page", description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    ask = commands.add_parser("ask", help="print the queries of the fleet's page and of each robot's, as JSON")
    draw = commands.add_parser("draw", help="write pages of the answers on standard input; print their paths")
    get = commands.add_parser("get", help="ask a VictoriaMetrics that can be reached from here, and write one page")
    for command in (ask, get):
        command.add_argument("--hours", type=float, default=6, help="how far back (%(default)s)")
    ask.add_argument("--robot", action="append", default=[], help="a robot to draw, too; may be repeated")
    get.add_argument("--robot", help="the robot to draw (default: the fleet)")
    get.add_argument("--url", required=True, help="base URL of VictoriaMetrics")
    for command in (draw, get):
        command.add_argument("--directory", type=Path, required=True, help="where the pages go")
    draw.add_argument("--source", required=True, help="name of the machine that was asked")
    ask.set_defaults(run=_ask)
    draw.set_defaults(run=_draw)
    get.set_defaults(run=_get)
    options = parser.parse_args(arguments)
    options.run(options)


def _ask(options: argparse.Namespace) -> None:
    robots = [None, *options.robot]
    asked = [expr for robot in robots for expr in exprs(Subject(robot, ""))]
    json.dump({**asdict(Period.last(options.hours, time.time())), "robots": robots, "queries": asked}, sys.stdout)


def _draw(options: argparse.Namespace) -> None:
    given = json.load(sys.stdin)
    asked = given["asked"]
    period = Period(asked["start"], asked["end"], asked["step"])
    left = iter(answers.unpack(given["answers"]))
    for robot in asked["robots"]:
        subject = Subject(robot, options.source)
        _write(subject, period, list(islice(left, len(exprs(subject)))), options.directory)


def _get(options: argparse.Namespace) -> None:
    subject = Subject(options.robot, options.url)
    period = Period.last(options.hours, time.time())
    _write(subject, period, answers.get(options.url, exprs(subject), period), options.directory)


def _write(subject: Subject, period: Period, found: Answers, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / subject.filename
    partial = path.with_suffix(".partial")
    partial.write_text(render(subject, period, found))
    partial.replace(path)
    remark = "" if subject.robot is None or any(found) else f" (nothing of {subject.robot} in this time)"
    print(f"{path}{remark}")


if __name__ == "__main__":
    main()
