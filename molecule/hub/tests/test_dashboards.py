"""The dashboards: every query of them finds something in the lab, and a browser draws every panel."""

from __future__ import annotations

import browser
import fleet
import pytest

import dashboards

HUB, ROBOT = "hub-1", "robot-1"


def asked() -> list:
    fleet_page = [(HUB, *query) for query in dashboards.queries(dashboards.FLEET)]
    robot_page = [(HUB, *query) for query in dashboards.queries(dashboards.ROBOT, robot=ROBOT)]
    return fleet_page + robot_page


@pytest.mark.parametrize(("where", "title", "promql", "may_be_empty"), asked())
def test_a_query_finds_something(where, title, promql, may_be_empty):
    found = fleet.series(fleet.container(where), promql)
    if not found and may_be_empty:
        pytest.skip(f"{title}: {may_be_empty}")
    assert found, f"{title}: {promql}"


def test_a_browser_draws_both_pages():
    run = fleet.playbook(
        "dashboards.yml", "--limit", HUB, "-e", "dashboards_hours=1", "-e", f"dashboards_robot={ROBOT}"
    )
    assert run.rc == 0, run.output
    for name, dashboard in {"fleet": dashboards.FLEET, ROBOT: dashboards.ROBOT}.items():
        drawn = browser.drawn_panels(browser.dump_dom(fleet.ROOT / "reports" / "dashboards" / f"{name}.html"))
        rightly_empty = {query[0] for query in dashboards.queries(dashboard, robot=ROBOT) if query[2]}
        assert len(drawn) > 10
        missing = {title for title, is_drawn in drawn.items() if not is_drawn}
        assert missing <= rightly_empty, f"{name}: not drawn: {missing - rightly_empty}"


@pytest.mark.parametrize(("where", "title"), [(HUB, "Roverwatch: fleet"), (ROBOT, "Roverwatch: robot")])
def test_vmui_offers_the_dashboard(where, title):
    url = "http://127.0.0.1:8428/vmui/custom-dashboards"
    offered = fleet.python(
        fleet.container(where), f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
    )
    assert title in offered
