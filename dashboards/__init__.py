"""The dashboards of the fleet and of one robot: defined once, drawn by VMUI, by Grafana and as an HTML page."""

from dashboards.definition import DASHBOARDS, FLEET, ROBOT
from dashboards.model import Dashboard, queries

__all__ = ["DASHBOARDS", "FLEET", "ROBOT", "Dashboard", "queries"]
