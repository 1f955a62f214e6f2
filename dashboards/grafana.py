"""Dashboards as Grafana's JSON, to be imported there. They ask for the data source: the hub's VictoriaMetrics, as a
data source of type Prometheus. A dashboard of one robot has the robot as a variable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import common as common_builder
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.model import COLUMNS, ROBOT_MATCHER, UNITS, Dashboard, Panel, Query, Row, Thresholds

GRID_COLUMNS = 24
STAT_HEIGHT, GRAPH_HEIGHT = 4, 8
DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLOURS = {"ok": "green", "warning": "orange", "critical": "red"}

AnyPanel: TypeAlias = timeseries.Panel | stat.Panel | table.Panel


def render(definition: Dashboard) -> dict[str, Any]:
    """The content of the dashboard's file."""
    made = (
        builder.Dashboard(definition.title)
        .uid(f"roverwatch-{definition.name}")
        .description(definition.description)
        .tags(["roverwatch"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .with_variable(builder.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    if any(ROBOT_MATCHER in query.expr for panel in definition.panels() for query in panel.queries):
        made.with_variable(_robot_variable())
    y = 0
    ids = count(1)
    for row in definition.rows:
        y = _add_row(made, row, y, ids)
    rendered: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(made.build()))
    return rendered


def _robot_variable() -> builder.QueryVariable:
    return (
        builder.QueryVariable("robot")
        .label("Robot")
        .datasource(DATASOURCE)
        .query({"query": 'label_values(up{robot!=""}, robot)', "refId": "robots"})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
    )


def _add_row(made: builder.Dashboard, row: Row, y: int, ids: Iterator[int]) -> int:
    """Adds the row's panels from left to right, wrapping at the grid's width; returns the first free y below."""
    made.with_row(builder.Row(row.title).id(next(ids)).grid_pos(dashboard.GridPos(h=1, w=GRID_COLUMNS, x=0, y=y)))
    y += 1
    x = height = 0
    for panel in row.panels:
        width = panel.width * GRID_COLUMNS // COLUMNS
        if x + width > GRID_COLUMNS:
            x, y = 0, y + height
        height = STAT_HEIGHT if panel.draw == "stat" else GRAPH_HEIGHT
        made.with_panel(_panel(panel).id(next(ids)).grid_pos(dashboard.GridPos(h=height, w=width, x=x, y=y)))
        x += width
    return y + height


def _panel(panel: Panel) -> AnyPanel:
    made = {"stat": _stat, "table": _table}.get(panel.draw, _timeseries)(panel)
    made.title(panel.title).description(panel.description).datasource(DATASOURCE).unit(UNITS[panel.unit].grafana)
    made.thresholds(_thresholds(panel.thresholds))
    if panel.may_be_empty:
        made.no_value(f"no data: {panel.may_be_empty}")
    for number, query in enumerate(panel.queries):
        made.with_target(_target(query, chr(ord("A") + number), panel))
    return made


def _target(query: Query, ref_id: str, panel: Panel) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(ref_id)
    if panel.draw == "table":
        return target.instant().format(PromQueryFormat.TABLE)
    return target.range()


def _timeseries(panel: Panel) -> AnyPanel:
    made = (
        timeseries.Panel()
        .legend(
            common_builder.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common_builder.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
        .line_width(1)
        .show_points(common.VisibilityMode.AUTO)
        .axis_soft_min(0)
    )
    if panel.draw == "bars":
        made.draw_style(common.GraphDrawStyle.BARS).fill_opacity(80)
    if panel.draw == "area":
        made.fill_opacity(40)
    if panel.draw in ("area", "bars"):
        made.stacking(common_builder.StackingConfig().mode(common.StackingMode.NORMAL))
    if panel.thresholds:
        style = common_builder.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
        made.thresholds_style(style)
    for number, query in enumerate(panel.queries):
        if query.limit:
            made.override_by_query(chr(ord("A") + number), _DASHED)
    return made


_DASHED = [
    dashboard.DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 6]}),
    dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": COLOURS["critical"]}),
]


def _stat(panel: Panel) -> AnyPanel:
    return (
        stat.Panel()
        .reduce_options(common_builder.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(common.BigValueColorMode.VALUE if panel.thresholds else common.BigValueColorMode.NONE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME if len(panel.queries) > 1 else common.BigValueTextMode.VALUE)
    )


def _table(panel: Panel) -> AnyPanel:
    names = [*panel.labels, *(["Value"] if panel.value else [])]
    organize = {
        "includeByName": dict.fromkeys(names, True),
        "indexByName": {name: order for order, name in enumerate(names)},
        "renameByName": {"Value": panel.value} if panel.value else {},
    }
    shown = dashboard.DataTransformerConfig(id_val="organize", options=organize)
    return table.Panel().show_header(True).with_transformation(shown)


def _thresholds(thresholds: Thresholds | None) -> builder.ThresholdsConfig:
    """Steps from the lowest value up, the first without a bound."""
    steps: list[tuple[float | None, str]]
    if thresholds is None:
        steps = [(None, "ok")]
    elif thresholds.below:
        steps = [(None, "critical"), (thresholds.critical, "warning"), (thresholds.warning, "ok")]
    elif thresholds.warning == thresholds.critical:
        steps = [(None, "ok"), (thresholds.critical, "critical")]
    else:
        steps = [(None, "ok"), (thresholds.warning, "warning"), (thresholds.critical, "critical")]
    return (
        builder.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value, COLOURS[level]) for value, level in steps])
    )
