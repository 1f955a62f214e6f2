"""What a scrape drops is read by nobody: every metric that something of ours names passes the list of its service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Template

from dashboards import DASHBOARDS

ROOT = Path(__file__).resolve().parents[3]

# Of the recording rules, and of the scrape itself, which no list of a service concerns.
RECORDED = re.compile(r"roverwatch_robot_(info|gone_seconds)|scrape_\w+|up")
# What a metric of the services begins with; `vmagent_…` and others are variables of roles as well.
PREFIXES = "alertmanager|container|DCGM_FI|node|process|roverwatch|sensor|vm|vmagent|vmalert|vmauth"
NAME = re.compile(rf"(?<![\w/.-])(?:{PREFIXES})_[A-Za-z0-9_]+(?![\w*(/-]|\.\w)")
# Suffixes that say what a text names is a metric and no variable.
UNITS = "bytes|seconds|total|info|ratio|count|sum|bucket|celsius|threads|status|state|stale|up|depth|reading|cache|rss"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def keeps() -> dict[str, str]:
    """Each role's list; of VictoriaMetrics that of a robot and that of a hub."""
    found = {}
    for path in sorted((ROOT / "roles").glob("*/defaults/main.yml")):
        role = path.parts[-3]
        found[role] = (load(path) or {}).get(f"{role}_metrics_keep", "")
    template = Template(found.pop("victoriametrics"))
    for machine in ("robot", "hub"):
        found[f"victoriametrics on a {machine}"] = template.render(victoriametrics_dashboards=machine)
    return {role: keep for role, keep in found.items() if keep}


KEEPS = keeps()


def kept(name: str) -> list[str]:
    return [role for role, keep in KEEPS.items() if re.fullmatch(keep, name)]


def expressions() -> dict[str, str]:
    """Every query of ours by who asks it."""
    found = {}
    for name, dashboard in DASHBOARDS.items():
        for row in dashboard.rows:
            for panel in row.panels:
                for number, query in enumerate(panel.queries):
                    found[f"{name}: {panel.title} {number}"] = query.expr
    for path in sorted((ROOT / "roles/vmalert/files/rules").glob("*.yml")):
        for group in load(path)["groups"]:
            for rule in group["rules"]:
                found[f"{path.stem}: {rule.get('alert') or rule['record']}"] = rule["expr"]
    for gate in load(ROOT / "group_vars/all/gates.yml")["rollout_gates"]:
        found[f"gate: {gate['name']}"] = gate["query"]
    return found


def metrics(expression: str) -> set[str]:
    """The names in a query: what stands before a `{` or a `[` or by itself, and alternatives of `__name__=~`."""
    found = set()
    for pattern in re.findall(r'__name__=~\s*"([^"]+)"', expression):
        found |= alternatives(pattern)
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    for name in re.findall(r"(?<![\w:$.])[A-Za-z_]\w*_\w+(?![\w:]|\s*\()", bare):
        found.add(name)
    return {name for name in found if not RECORDED.fullmatch(name)}


def alternatives(pattern: str) -> set[str]:
    """`a_(b|c)_d` as its two names."""
    group = re.search(r"\(([^()]*)\)", pattern)
    if not group:
        return {pattern}
    made: set[str] = set()
    for choice in group[1].split("|"):
        made |= alternatives(pattern[: group.start()] + choice + pattern[group.end() :])
    return made


@pytest.mark.parametrize("who", sorted(expressions()))
def test_what_a_query_asks_for_is_kept(who: str) -> None:
    names = metrics(expressions()[who])
    assert [name for name in names if not kept(name)] == []


def test_the_queries_are_understood() -> None:
    """So that the test above is about something."""
    names = set().union(*map(metrics, expressions().values()))
    assert len(names) > 60
    assert {"vm_rows_ignored_total", "node_network_receive_errs_total", "process_start_time_seconds"} <= names
    assert metrics('rate({__name__=~"a_(b|c)_total"}) + max by (x_y) (d_e{f_g="h_i"})') == {
        "a_b_total",
        "a_c_total",
        "d_e",
    }


TEXTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "app" / "README.md",
    *sorted(path for part in ("module_utils", "plugin_utils") for path in (ROOT / "plugins" / part).rglob("*.py")),
]


def variables() -> set[str]:
    """Of roles, which begin as metrics do."""
    return {
        name
        for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")
        for name in load(path)["argument_specs"]["main"]["options"]
    }


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_or_the_health_report_names_is_kept(text: Path) -> None:
    known = variables()
    names = {
        name
        for name in NAME.findall(text.read_text())
        if re.search(rf"_(?:{UNITS})$", name) and name not in known and not RECORDED.fullmatch(name)
    }
    names -= {"container_threads"} if text.suffix == ".py" else set()
    assert [name for name in sorted(names) if not kept(name)] == []


def test_what_the_runbook_tells_to_look_at_is_kept() -> None:
    """`^vmagent_remotewrite_(pending_data_bytes|retries_count_total)`, as an operator greps for it."""
    greps = re.findall(r"grep -E '\^([^']+)'", (ROOT / "docs" / "runbook.md").read_text())
    assert greps
    for pattern in greps:
        assert [name for name in alternatives(pattern) if not kept(name)] == []


@pytest.mark.parametrize("role", sorted(KEEPS))
def test_the_internals_of_a_program_are_not(role: str) -> None:
    for name in ("go_memstats_alloc_bytes", "go_gc_duration_seconds", "flag", "promhttp_metric_handler_requests_total"):
        assert not re.fullmatch(KEEPS[role], name)
