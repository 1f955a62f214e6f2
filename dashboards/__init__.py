"""The dashboards of the fleet and of one robot: defined once, drawn by VMUI, by Grafana and as an HTML page."""

from dashboards.fleet import FLEET
from dashboards.model import Dashboard, queries
from dashboards.robot import ROBOT

DASHBOARDS = {dashboard.name: dashboard for dashboard in (FLEET, ROBOT)}

__all__ = ["DASHBOARDS", "FLEET", "ROBOT", "Dashboard", "queries"]
