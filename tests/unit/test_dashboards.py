"""The dashboards against a real VictoriaMetrics with a small fleet's samples in it, and in a real browser."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import browser
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Store
from ansible_collections.roverwatch.fleet.plugins.modules import range_queries
from plotly.offline import get_plotlyjs

import dashboards
from dashboards import FLEET, ROBOT, Dashboard, answers, page
from dashboards.__main__ import GRAFANA, VMUI, generated
from dashboards.answers import Period
from dashboards.model import COLUMNS, ROBOT_MATCHER, UNITS, Panel, Query, Thresholds, promql

TOP = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("dashboard", [FLEET, ROBOT], ids=lambda each: each.name)

MINUTES = 60
INTERVAL_SECONDS = 15
GONE_MINUTES = 10
START_DEADLINE_SECONDS = 60


# Samples of a fleet: robot-1 is well, robot-2 is gone since GONE_MINUTES, hub-1 looks after itself.

Value = float | Callable[[int], float]
"""Of a series: always the same, or made of the sample's number."""


def counting(per_second: float) -> Callable[[int], float]:
    return lambda number: number * INTERVAL_SECONDS * per_second


def of_a_robot(name: str, boot: int) -> Iterator[tuple[dict[str, str], Value]]:
    services = {"sensor": 80, "node-exporter": 32, "victoriametrics": 128, "vmagent": 48}
    restarted = MINUTES * 60 // INTERVAL_SECONDS - 20

    def one(metric: str, value: Value, **labels: str) -> tuple[dict[str, str], Value]:
        return {"__name__": metric, "robot": name, "fleet": "test", "site": "here", **labels}, value

    for job, cap in services.items():
        yield one("up", 1, job=job)
        yield one("scrape_duration_seconds", 0.01, job=job)
        yield one("scrape_samples_scraped", 300, job=job)
        yield one("process_cpu_seconds_total", counting(0.01), job=job)
        start = (lambda number: boot + 60 + (900 if number >= restarted else 0)) if job == "vmagent" else boot + 60
        yield one("process_start_time_seconds", start, job=job)
        unit = f"roverwatch-{job}"
        yield one("container_memory_working_set_bytes", cap * 2**20 / 4, job="sensor", name=unit)
        yield one("container_spec_memory_limit_bytes", cap * 2**20, job="sensor", name=unit)
        yield one("container_oom_events_total", 0, job="sensor", name=unit)
    # Cgroups with no cap of their own, 0 as cAdvisor says it: as many as a panel of the highest shows.
    for number in range(10):
        yield one("container_memory_working_set_bytes", 5 * 2**20, job="sensor", name=f"roverwatch-uncapped-{number}")
        yield one("container_spec_memory_limit_bytes", 0, job="sensor", name=f"roverwatch-uncapped-{number}")
    yield one("container_memory_working_set_bytes", 90 * 2**20, job="sensor", name="roverwatch.slice")
    yield one("container_spec_memory_limit_bytes", 300 * 2**20, job="sensor", name="roverwatch.slice")
    kills = (lambda number: 1.0 * (number >= restarted)) if name == "robot-1" else 0
    yield one("container_oom_events_total", kills, job="node-exporter", name="roverwatch-vmagent")
    for number in ("1", "2"):
        url = f"{number}:https://hub-{number}:8427/api/v1/write"
        path = f"/var/lib/roverwatch/vmagent/queue/persistent-queue/{number}_A1034CECB2A6FE4E"
        yield one("vmagent_remotewrite_pending_data_bytes", 1000, job="vmagent", url=url, path=path)
        yield one("vmagent_remotewrite_bytes_sent_total", counting(5000), job="vmagent", url=url)
        yield one("vmagent_remotewrite_packets_dropped_total", 0, job="vmagent", url=url)
        yield one("vmagent_remotewrite_retries_count_total", 0, job="vmagent", url=url)
        yield one("vm_persistentqueue_blocks_dropped_total", 0, job="vmagent", path=path)
    for mode, share in {"idle": 0.7, "user": 0.2, "system": 0.1}.items():
        for cpu in ("0", "1"):
            yield one("node_cpu_seconds_total", counting(share), job="node-exporter", cpu=cpu, mode=mode)
    for metric, value in {
        "node_boot_time_seconds": boot,
        "node_load1": 0.5,
        "node_load5": 0.4,
        "node_load15": 0.3,
        "node_memory_MemTotal_bytes": 512 * 2**20,
        "node_memory_MemAvailable_bytes": 256 * 2**20,
    }.items():
        yield one(metric, value, job="node-exporter")
    disk = {"device": "/dev/mmcblk0p2", "fstype": "ext4", "mountpoint": "/", "job": "node-exporter"}
    yield one("node_filesystem_size_bytes", 32e9, **disk)
    yield one("node_filesystem_avail_bytes", 8e9, **disk)
    for metric in ("node_disk_read_bytes_total", "node_disk_written_bytes_total"):
        yield one(metric, counting(1e5), job="node-exporter", device="mmcblk0")
    for way in ("receive", "transmit"):
        for what in ("bytes", "errs", "drop"):
            yield one(f"node_network_{way}_{what}_total", counting(10), job="node-exporter", device="wlan0")
            yield one(f"node_network_{way}_{what}_total", counting(10), job="node-exporter", device="lo")
    yield one("vm_data_size_bytes", 2e6, job="victoriametrics", type="storage/small")
    yield one("vm_data_size_bytes", 1e6, job="victoriametrics", type="indexdb/file")
    yield one("vm_data_size_bytes", 5e4, job="victoriametrics", type="storage/metaindex")
    yield one("vm_free_disk_space_bytes", 8e9, job="victoriametrics")
    yield one("sensor_build_info", 1, job="sensor", version="0.2.0")
    yield one("sensor_requests_total", counting(0.1), job="sensor", path="/metrics", code="200")
    for bound, share in {"0.005": 0.05, "0.01": 0.1, "+Inf": 0.1}.items():
        yield one("sensor_scrape_duration_seconds_bucket", counting(share), job="sensor", le=bound)
    yield one("sensor_cpu_spike_seconds_count", 0, job="sensor")
    for source in ("cgroup", "simulated"):
        yield one("sensor_source_up", 1, job="sensor", source=source)
        yield one("sensor_failed_total", 0, job="sensor", source=source)
        yield one("sensor_loop_iterations_total", counting(1), job="sensor", source=source)
        newest = int(time.time()) - MINUTES * 60

        def taken(number: int, newest: float = newest) -> float:
            return newest + number * INTERVAL_SECONDS

        yield one("sensor_last_sample_timestamp_seconds", taken, job="sensor", source=source)
    for sensor, unit in {"arm_celsius": "celsius", "battery_volts": "volts", "distance_meters": "meters"}.items():
        yield one("sensor_reading", 23.5, job="sensor", source="simulated", sensor=sensor, unit=unit)


def of_the_hub() -> Iterator[tuple[dict[str, str], Value]]:
    def one(metric: str, value: Value, **labels: str) -> tuple[dict[str, str], Value]:
        return {"__name__": metric, "hub": "hub-1", **labels}, value

    yield one("ALERTS", 1, alertname="RobotGone", alertstate="firing", robot="robot-2")
    yield one("ALERTS", 1, alertname="RulesFailing", alertstate="firing", group="fleet")
    for job in ("victoriametrics", "vmauth", "vmalert", "alertmanager", "node-exporter"):
        yield one("up", 1, job=job)
        yield one("process_resident_memory_bytes", 5e7, job=job)
        yield one("process_cpu_seconds_total", counting(0.05), job=job)
    yield one("vm_rows_inserted_total", counting(1500), job="victoriametrics", type="promremotewrite")
    yield one("vm_data_size_bytes", 2e8, job="victoriametrics", type="storage/big")
    yield one("vm_data_size_bytes", 1e8, job="victoriametrics", type="indexdb/file")
    yield one("vm_data_size_bytes", 5e6, job="victoriametrics", type="indexdb/metaindex")
    yield one("vm_free_disk_space_bytes", 8e10, job="victoriametrics")
    yield one("vm_cache_entries", 7500, job="victoriametrics", type="storage/hour_metric_ids")
    yield one("vm_http_requests_total", counting(0.2), job="victoriametrics", path="/api/v1/query_range")
    yield one("vm_slow_queries_total", 0, job="victoriametrics")
    yield one("vmauth_user_requests_total", counting(0.3), job="vmauth", username="robot-1")
    yield one("vmauth_http_request_errors_total", counting(0.1), job="vmauth", reason="invalid_auth_token")
    yield one("vmalert_execution_errors_total", 0, job="vmalert")
    for robot in ("robot-1", "robot-2"):
        yield {"__name__": "roverwatch_robot_info", "robot": robot, "fleet": "test", "site": "here"}, 1


def json_lines(series: Iterator[tuple[dict[str, str], Value]], end: float, until: float) -> str:
    """What /api/v1/import takes: a sample every INTERVAL_SECONDS of the MINUTES up to `end`, cut off at `until`."""
    count = MINUTES * 60 // INTERVAL_SECONDS
    times = [end - (count - 1 - number) * INTERVAL_SECONDS for number in range(count)]
    kept = [number for number, at in enumerate(times) if at <= until]
    lines = []
    for labels, value in series:
        values = [value(number) if callable(value) else value for number in kept]
        lines.append({"metric": labels, "values": values, "timestamps": [int(times[number] * 1000) for number in kept]})
    return "\n".join(map(json.dumps, lines))


def victoriametrics() -> Path:
    """The program as the artifact store has it."""
    store = Store(TOP / "artifacts")
    mine = [each for each in store.entries() if (each.name, each.arch) == ("victoriametrics", os.uname().machine)]
    if not mine:
        pytest.skip("victoriametrics is not in the artifact store: make artifacts")
    return store.path(mine[-1])


@contextmanager
def running(directory: Path, *flags: str) -> Iterator[str]:
    """The URL of a VictoriaMetrics with an empty database."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = directory / "log"
    # The flag as the role sets it: the last points of a graph are as of so long ago.
    command = [
        str(victoriametrics()),
        f"-storageDataPath={directory / 'data'}",
        f"-httpListenAddr={address}",
        "-search.latencyOffset=5s",
    ]
    command += flags
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while not answers_health(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=START_DEADLINE_SECONDS)


def answers_health(address: str) -> bool:
    try:
        return b"OK" in urllib.request.urlopen(f"http://{address}/health", timeout=5).read()
    except OSError:
        return False


def post(url: str, body: str) -> None:
    urllib.request.urlopen(url, body.encode(), timeout=30).read()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A hub's VictoriaMetrics with an hour of the fleet's samples."""
    with running(tmp_path_factory.mktemp("hub")) as url:
        now = time.time()
        gone = now - GONE_MINUTES * 60
        post(f"{url}/api/v1/import", json_lines(of_a_robot("robot-1", int(now) - 86400), now, now))
        post(f"{url}/api/v1/import", json_lines(of_a_robot("robot-2", int(now) - 86400), now, gone))
        post(f"{url}/api/v1/import", json_lines(of_the_hub(), now, now))
        urllib.request.urlopen(f"{url}/internal/force_flush", timeout=30).read()
        yield url


@pytest.fixture(scope="module")
def period(hub: str) -> Period:
    """The last half hour, as of when the samples were there."""
    return Period.last(0.5, time.time())


def newest(hub: str, period: Period, dashboard: Dashboard, title: str, robot: str | None = None) -> dict[str, Any]:
    """The newest value of each series of a panel, by its name."""
    (panel,) = [each for each in dashboard.panels() if each.title == title]
    found: dict[str, Any] = {}
    for query in panel.queries:
        (answer,) = answers.get(hub, [promql(query, robot)], period)
        found |= {one.name: one.newest for one in answers.series_of(query, answer, period.times())}
    return found


# The definition.


@BOTH
def test_titles_are_unique_so_that_a_panel_can_be_named(dashboard: Dashboard) -> None:
    titles = [panel.title for panel in dashboard.panels()]
    assert len(set(titles)) == len(titles)
    assert len({row.title for row in dashboard.rows}) == len(dashboard.rows)


@BOTH
def test_every_panel_is_complete(dashboard: Dashboard) -> None:
    for panel in dashboard.panels():
        assert panel.unit in UNITS, panel.title
        assert panel.queries, panel.title
        assert panel.description.endswith("."), panel.title
        assert not panel.may_be_empty.endswith("."), panel.title
        assert all(query.legend for query in panel.queries), panel.title
        assert COLUMNS % panel.width == 0, panel.title
        assert bool(panel.labels) == (panel.draw == "table"), panel.title
        assert panel.draw != "table" or len(panel.queries) == 1, panel.title


@BOTH
def test_every_legend_names_labels_that_the_query_keeps(dashboard: Dashboard) -> None:
    for panel in dashboard.panels():
        for query in panel.queries:
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query.expr))))
            named = set(re.findall(r"{{(\w+)}}", query.legend))
            assert panel.title == "Firing alerts" or named <= kept, query


@BOTH
def test_rows_are_as_wide_as_the_grid(dashboard: Dashboard) -> None:
    for row in dashboard.rows:
        assert sum(panel.width for panel in row.panels) % COLUMNS == 0, row.title


def test_only_the_robots_dashboard_is_about_one_robot() -> None:
    assert not any("$robot" in query.expr for panel in FLEET.panels() for query in panel.queries)
    for panel in ROBOT.panels():
        for query in panel.queries:
            # A selector without the matcher would show other robots' series at the hub.
            selectors = len(re.findall(r"\w+{|{__name__", query.expr)) - query.expr.count("{__name__")
            assert query.expr.count("{" + ROBOT_MATCHER) + query.expr.count("," + ROBOT_MATCHER) >= max(selectors, 1)
            assert query.expr.count("$robot") == query.expr.count(ROBOT_MATCHER), query


def test_a_query_is_about_one_robot_or_all_there_are() -> None:
    query = Query('sum(up{robot="$robot",job="sensor"}) / count(up{robot="$robot"})', "share")
    assert promql(query, "robot-7") == 'sum(up{robot="robot-7",job="sensor"}) / count(up{robot="robot-7"})'
    assert promql(query, None) == 'sum(up{job="sensor"}) / count(up)'
    last = Query('rate({__name__=~"a|b",robot="$robot",device!="lo"})', "rate")
    assert promql(last, None) == 'rate({__name__=~"a|b",device!="lo"})'


@pytest.mark.parametrize(
    ("thresholds", "levels"),
    [
        (Thresholds(0.8, 0.95), {0.79: "ok", 0.8: "warning", 0.95: "critical"}),
        (Thresholds(0.15, 0.05, below=True), {0.16: "ok", 0.15: "warning", 0.05: "critical"}),
        (Thresholds(1, 1), {0: "ok", 1: "critical"}),
    ],
)
def test_levels(thresholds: Thresholds, levels: dict[float, str]) -> None:
    assert {value: thresholds.level(value) for value in levels} == levels


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "seconds", "0 s"),
        (0.00213, "seconds", "2.13 ms"),
        (5400, "seconds", "1.5 h"),
        (13003571, "bytes", "12.4 MiB"),
        (0, "bytes", "0 B"),
        (0.3114, "ratio", "31.1 %"),
        (0, "ratio", "0 %"),
        (1059, "count", "1,059"),
        (0.0014, "cores", "0.0014 cores"),
        (-3, "celsius", "-3 °C"),
    ],
)
def test_numbers_are_for_people(value: float, unit: str, text: str) -> None:
    assert page.human(value, UNITS[unit]) == text


# The queries.


@BOTH
def test_every_query_is_understood_and_has_data_or_a_reason(hub: str, period: Period, dashboard: Dashboard) -> None:
    robot = "robot-1" if dashboard is ROBOT else None
    for title, expr, may_be_empty in dashboards.queries(dashboard, robot):
        (answer,) = answers.get(hub, [expr], period)
        assert answer or may_be_empty, f"{title}: {expr}"


def test_a_robots_own_victoriametrics_is_asked_for_all_it_has(tmp_path: Path) -> None:
    with running(tmp_path) as robot:
        now = time.time()
        post(f"{robot}/api/v1/import", json_lines(of_a_robot("robot-1", int(now) - 86400), now, now))
        urllib.request.urlopen(f"{robot}/internal/force_flush", timeout=30).read()
        period = Period.last(0.5, time.time())
        for title, expr, may_be_empty in dashboards.queries(ROBOT):
            assert "robot" not in expr.replace("roverwatch", ""), expr
            (answer,) = answers.get(robot, [expr], period)
            assert answer or may_be_empty, f"{title}: {expr}"


def test_a_robot_that_stays_away_is_told_of(hub: str, period: Period) -> None:
    assert newest(hub, period, FLEET, "Robots") == {"reporting": 1, "expected": 2}
    assert newest(hub, period, FLEET, "Robots gone") == {"gone": 1}
    ages = newest(hub, period, FLEET, "Age of the newest sample")
    assert (GONE_MINUTES - 1) * 60 <= ages["robot-2"] <= (GONE_MINUTES + 5) * 60
    assert ages["robot-1"] < (GONE_MINUTES - 1) * 60


def test_an_alert_names_whom_it_is_about(hub: str, period: Period) -> None:
    names = {" ".join(name.split()) for name in newest(hub, period, FLEET, "Firing alerts")}
    assert names == {"RobotGone robot-2", "RulesFailing hub-1 fleet"}


def test_memory_is_held_against_budget_and_caps(hub: str, period: Period) -> None:
    assert newest(hub, period, FLEET, "Slice against budget")["robot-1"] == pytest.approx(0.3)
    nearest = newest(hub, period, FLEET, "Services nearest to their cap")
    assert nearest["robot-1 roverwatch-vmagent"] == pytest.approx(0.25)
    assert not any("slice" in name or "uncapped" in name for name in nearest)


def test_one_restart_and_one_kill_are_counted_once(hub: str, period: Period) -> None:
    assert newest(hub, period, FLEET, "OOM kills in 24 h") == {"kills": 1}
    assert newest(hub, period, ROBOT, "OOM kills in 24 h", "robot-1") == {"kills": 1}
    assert newest(hub, period, ROBOT, "OOM kills in 24 h", "robot-2") == {"kills": 0}
    (panel,) = [each for each in ROBOT.panels() if each.title == "Restarts"]
    # From before the first sample, as what is new is no restart.
    whole = Period(period.end - (MINUTES + 5) * 60, period.end, INTERVAL_SECONDS)
    (answer,) = answers.get(hub, [promql(panel.queries[0], "robot-1")], whole)
    assert {one["metric"]["job"]: sum(float(value) for _, value in one["values"]) for one in answer} == {"vmagent": 1}


def test_destinations_are_called_by_number_and_host(hub: str, period: Period) -> None:
    assert newest(hub, period, ROBOT, "Queue", "robot-1") == {"1:hub-1:8427": 1000, "2:hub-2:8427": 1000}
    # The first is the robot's own history.
    assert newest(hub, period, FLEET, "Push queue")["robot-1"] == 1000


def test_the_size_of_a_history_is_that_on_the_disk(hub: str, period: Period) -> None:
    assert newest(hub, period, FLEET, "History on the hub's disk")["hub-1"] == 3e8
    assert newest(hub, period, ROBOT, "History on the robot", "robot-1")["history"] == 3e6


def test_what_the_module_returns_is_what_the_page_draws(hub: str, period: Period) -> None:
    times = {"start": period.start, "end": period.end, "step": period.step}
    asked = ["count by (robot) (up)", "nothing_has_this_name"]
    found = [range_queries.query_range(hub, query, times, 30) for query in asked]
    assert answers.unpack(range_queries.pack(found)) == found == answers.get(hub, asked, period)
    assert [len(series) for series in found] == [3, 0]


def test_a_query_that_is_refused_is_named(hub: str, period: Period) -> None:
    times = {"start": period.start, "end": period.end, "step": period.step}
    with pytest.raises(range_queries.QueryError, match=re.escape("sum(up")):
        range_queries.query_range(hub, "sum(up", times, 30)


def test_nobody_who_answers_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(range_queries.QueryError, match=f"{url} does not answer the query up: .*refused"):
        range_queries.query_range(url, "up", {"start": 0, "end": 1, "step": 1}, 5)


def test_a_period_has_no_more_points_than_a_graph_shows() -> None:
    for hours in (0.1, 1, 6, 24, 24 * 30):
        period = Period.last(hours, 1_800_000_000.7)
        times = period.times()
        assert times[-1] == period.end == 1_800_000_000
        assert times[0] == period.start
        assert 0 <= hours * 3600 - (period.end - period.start) < period.step
        assert len(times) <= answers.POINTS + 1


def test_a_gap_stays_a_gap_and_names_sort_as_people_count() -> None:
    def one(robot: str, *values: tuple[int, str]) -> dict[str, Any]:
        return {"metric": {"robot": robot}, "values": list(values)}

    answer = [one("robot-10", (0, "1"), (30, "2")), one("robot-2", (15, "+Inf"), (30, "3")), one("robot-1", (0, "NaN"))]
    series = answers.series_of(Query("x", "{{robot}}"), answer, [0, 15, 30])
    assert [(each.name, each.values) for each in series] == [
        ("robot-2", [None, None, 3]),
        ("robot-10", [1, None, 2]),
    ]


# What is made of it.


def test_generated_files_are_up_to_date() -> None:
    made = generated()
    committed = {path: (TOP / path).read_text() if (TOP / path).exists() else "" for path in made}
    stale = [str(path) for path in made if made[path] != committed[path]]
    assert not stale, f"{', '.join(stale)}: run `python -m dashboards` in the repository's directory"
    there = {path.relative_to(TOP) for top in (VMUI, GRAFANA) for path in (TOP / top).rglob("*.json")}
    assert there == set(made), "a file that nothing makes"


@pytest.mark.parametrize(("kind", "dashboard"), [("hub", FLEET), ("robot", ROBOT)])
def test_vmui_loads_ours(tmp_path: Path, kind: str, dashboard: Dashboard) -> None:
    with running(tmp_path, f"-vmui.customDashboardsPath={TOP / VMUI / kind}") as url:
        (loaded,) = json.load(urllib.request.urlopen(f"{url}/vmui/custom-dashboards"))["dashboardsSettings"]
        assert loaded == json.loads((TOP / VMUI / kind / f"{dashboard.name}.json").read_text())
        assert [panel["title"] for row in loaded["rows"] for panel in row["panels"]] == [
            panel.title for panel in dashboard.panels()
        ]
        for row in loaded["rows"]:
            for panel in row["panels"]:
                assert len(panel["alias"]) == len(panel["expr"])
                for expr in panel["expr"]:
                    query = urllib.parse.urlencode({"query": expr})
                    assert json.load(urllib.request.urlopen(f"{url}/api/v1/query?{query}"))["status"] == "success"


def test_vmui_shows_scaled_values(hub: str) -> None:
    """VMUI shows a unit as it is: 300 MiB must come as 300."""
    rows = json.loads((TOP / VMUI / "robot" / "robot.json").read_text())["rows"]
    (panel,) = [each for row in rows for each in row["panels"] if each["title"] == "Slice against budget"]
    assert panel["unit"] == "MiB"
    query = urllib.parse.urlencode({"query": panel["expr"][1]})
    (answer,) = json.load(urllib.request.urlopen(f"{hub}/api/v1/query?{query}"))["data"]["result"]
    assert float(answer["value"][1]) == 300


@BOTH
def test_grafana_has_every_panel_and_its_variables(dashboard: Dashboard) -> None:
    made = json.loads((TOP / GRAFANA / f"{dashboard.name}.json").read_text())
    variables = {each["name"]: each["type"] for each in made["templating"]["list"]}
    assert variables == {"datasource": "datasource"} | ({"robot": "query"} if dashboard is ROBOT else {})
    drawn = [each for each in made["panels"] if each["type"] != "row"]
    assert [each["title"] for each in made["panels"] if each["type"] == "row"] == [row.title for row in dashboard.rows]
    assert len({each["id"] for each in made["panels"]}) == len(made["panels"])
    for each, panel in zip(drawn, dashboard.panels(), strict=True):
        check_grafana_panel(each, panel)
    for one, next_one in pairwise(made["panels"]):
        place, follows = one["gridPos"], next_one["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert follows["y"] > place["y"] or follows["x"] == place["x"] + place["w"], next_one["title"]


def check_grafana_panel(each: dict[str, Any], panel: Panel) -> None:
    assert each["title"] == panel.title
    assert each["type"] == {"stat": "stat", "table": "table"}.get(panel.draw, "timeseries")
    assert each["datasource"]["uid"] == "${datasource}"
    assert [target["expr"] for target in each["targets"]] == [query.expr for query in panel.queries]
    assert [target["legendFormat"] for target in each["targets"]] == [query.legend for query in panel.queries]
    defaults = each["fieldConfig"]["defaults"]
    assert defaults["unit"] == UNITS[panel.unit].grafana
    steps = [(step["value"], step["color"]) for step in defaults["thresholds"]["steps"]]
    assert steps[0][0] is None
    assert [value for value, _ in steps[1:]] == sorted(value for value, _ in steps[1:])
    if panel.thresholds:
        colours = dict(steps[1:])
        assert colours[panel.thresholds.warning] == ("green" if panel.thresholds.below else steps[1][1])
        assert (steps[0][1] == "red") == panel.thresholds.below
    assert (panel.may_be_empty in defaults.get("noValue", "")) or not panel.may_be_empty


# The page, in a browser.


def with_data(hub: str, period: Period, dashboard: Dashboard, robot: str | None) -> dict[str, bool]:
    """Which panels have data now."""
    found: dict[str, bool] = {}
    for title, expr, _ in dashboards.queries(dashboard, robot):
        found[title] = found.get(title, False) or bool(answers.get(hub, [expr], period)[0])
    return found


@pytest.fixture
def chromium() -> None:
    if browser.chromium() is None:
        pytest.skip("chromium is not installed: lab/packages.sh chromium")


@pytest.mark.parametrize("robot", [None, "robot-1"])
def test_a_browser_draws_every_panel_that_has_data(
    hub: str, period: Period, tmp_path: Path, robot: str | None, chromium: None
) -> None:
    subject = page.Subject(robot, "hub-1")
    asked = page.exprs(subject)
    path = tmp_path / subject.filename
    path.write_text(page.render(subject, period, answers.get(hub, asked, period)))
    dom = browser.dump_dom(path)
    assert browser.drawn_panels(dom) == with_data(hub, period, subject.dashboard, robot)
    assert "data-drawn=" in dom, "the page's script did not come to its end"
    reasons = [panel.may_be_empty for panel in subject.dashboard.panels() if panel.may_be_empty]
    assert sum(dom.count(f"<b>no data</b> {reason}<") for reason in reasons) > 0
    assert "there should be some" not in dom
    assert not re.search("https?:", path.read_text().replace(get_plotlyjs(), "")), "the page must not need a network"


def test_a_panel_without_data_is_not_taken_for_drawn(tmp_path: Path, chromium: None) -> None:
    period = Period.last(1, time.time())
    subject = page.Subject("robot-1", "hub-1")
    path = tmp_path / "empty.html"
    path.write_text(page.render(subject, period, [[] for _ in page.exprs(subject)]))
    drawn = browser.drawn_panels(browser.dump_dom(path))
    assert set(drawn) == {panel.title for panel in ROBOT.panels()}
    assert not any(drawn.values())


@pytest.mark.parametrize(
    ("inside", "drawn"),
    [
        ('<svg><path class="xgrid" d="M0,0v9"></path></svg>', False),
        ('<svg><g class="trace scatter"><path class="js-line" d=""></path></g></svg>', False),
        ('<svg><g class="trace scatter"><path class="js-line" d="M0,0L9,9"/></g></svg>', True),
        ('<svg><g class="trace bars"><g class="point"><path d="M0,0V9H9"></path></g></g></svg>', True),
        ("<table><thead><tr><th>job</th></tr></thead><tbody></tbody></table>", False),
        ("<table><tbody><tr><td>sensor<td>3</table>", True),
    ],
)
def test_only_lines_bars_and_rows_count_as_drawn(inside: str, drawn: bool) -> None:
    around = '<section data-panel="before"><br></section>{}<section data-panel="after"></section>'
    dom = around.format(f'<section data-panel="this">{inside}</section>')
    assert browser.drawn_panels(dom) == {"before": False, "this": drawn, "after": False}


def test_a_label_cannot_write_into_the_page() -> None:
    period = Period(0, 60, 15)
    evil = "</script><script>alert(1)</script>"
    subject = page.Subject(None, evil)
    values = [[time, "1"] for time in period.times()]
    found = [
        [{"metric": {"robot": evil, "alertname": evil, "job": evil}, "values": values}] for _ in page.exprs(subject)
    ]
    text = page.render(subject, period, found)
    assert "alert(1)" in text
    assert "<script>alert(1)" not in text


def test_the_command_line_makes_the_same_page_in_one_step_and_in_three(
    hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page.main(["get", "--url", hub, "--hours", "0.5", "--robot", "robot-1", "--directory", str(tmp_path / "get")])
    assert capsys.readouterr().out == f"{tmp_path}/get/robot-1.html\n"
    page.main(["ask", "--hours", "0.5", "--robot", "robot-1", "--robot", "robot-9"])
    asked = json.loads(capsys.readouterr().out)
    times = {name: asked[name] for name in ("start", "end", "step")}
    found = range_queries.pack([range_queries.query_range(hub, query, times, 30) for query in asked["queries"]])
    given = tmp_path / "given"
    given.write_text(json.dumps({"asked": asked, "answers": found}))
    with given.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        page.main(["draw", "--source", "hub-1", "--directory", str(tmp_path / "draw")])
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/draw/fleet.html",
        f"{tmp_path}/draw/robot-1.html",
        f"{tmp_path}/draw/robot-9.html (nothing of robot-9 in this time)",
    ]
    panels = re.compile(r'data-panel="([^"]*)"')
    one, three = ((tmp_path / each / "robot-1.html").read_text() for each in ("get", "draw"))
    assert panels.findall(one) == panels.findall(three) == [panel.title for panel in ROBOT.panels()]
