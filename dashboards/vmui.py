"""Dashboards in the format of VictoriaMetrics' -vmui.customDashboardsPath, a directory of JSON files.

VMUI has no variables, so a dashboard of one robot is for that robot's own VictoriaMetrics. It draws graphs only, and
shows a unit behind the value as it is.
"""

from __future__ import annotations

from typing import Any

from dashboards.model import UNITS, Dashboard, Panel, Query, Row, promql

# A graph needs more room than a number does.
STAT_WIDTH = 4


def render(dashboard: Dashboard) -> dict[str, Any]:
    """The content of the dashboard's file."""
    return {
        "title": dashboard.title,
        "filename": f"{dashboard.name}.json",
        "rows": [_row(row) for row in dashboard.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {"title": row.title, "panels": [_panel(panel) for panel in row.panels]}


def _panel(panel: Panel) -> dict[str, Any]:
    suffix = UNITS[panel.unit].fixed.suffix
    return {
        "title": panel.title,
        "description": _description(panel),
        **({"unit": suffix} if suffix else {}),
        "expr": [_expr(query, panel) for query in panel.queries],
        "alias": [query.legend for query in panel.queries],
        "showLegend": True,
        "width": STAT_WIDTH if panel.draw == "stat" else panel.width,
    }


def _description(panel: Panel) -> str:
    return f"{panel.description} No data: {panel.may_be_empty}." if panel.may_be_empty else panel.description


def _expr(query: Query, panel: Panel) -> str:
    expr = promql(query, robot=None)
    factor = UNITS[panel.unit].fixed.factor
    return expr if factor == 1 else f"({expr}) / {factor:.12g}"
