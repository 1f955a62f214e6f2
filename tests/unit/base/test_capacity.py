"""Durations, and whether a disk holds what is asked of it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import binaries
import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import durations
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.durations import DAY, HOUR
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import probe
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import capacity
from jinja2 import Template

ROOT = Path(__file__).resolve().parents[3]
GIB = 1 << 30
ROBOT: dict[str, Any] = {
    "victoriametrics_retention": "14d",
    "vmagent_hubs": [{"name": "hub-1", "url": "https://hub-1:8427"}],
    "vmagent_queue_max": "1G",
    "vmagent_outage": "48h",
    "vmagent_series": 1500,
    "vmagent_scrape_interval": "15s",
    "vmagent_hub_delay": "30s",
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15s", 15),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("1d12h", 36 * HOUR),
        ("2w", 14 * DAY),
        ("1y", 365 * DAY),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert durations.to_seconds(text) == seconds


@pytest.mark.parametrize("wrong", ["15", 15, "", "15 s", "s", "-15s", "15S", "1d12", "1M", True, None])
def test_no_duration(wrong: object) -> None:
    with pytest.raises(ValueError, match="such as 15s"):
        durations.to_seconds(wrong)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("14d", 14 * DAY),
        ("1d", DAY),
        ("24h", DAY),
        ("36h", 36 * HOUR),
        ("1d12h", 36 * HOUR),
        ("2w", 14 * DAY),
        ("1y", 365 * DAY),
        ("1", 31 * DAY),
        ("1.5", 46.5 * DAY),
        ("2M", 62 * DAY),
        (3, 93 * DAY),
    ],
)
def test_retention(text: object, seconds: float) -> None:
    assert durations.retention_to_seconds(text) == seconds


SYNTAX = ["14d", "1", "1.5", "2M", "36h", "1d12h", "2w", "1y", "3m", "w", "-1d", "14 d", "d14"]


@pytest.mark.parametrize("text", SYNTAX)
def test_victoriametrics_takes_the_same_retentions(text: str) -> None:
    command = [binaries.find("victoriametrics"), "-dryRun", f"-retentionPeriod={text}"]
    taken = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        durations.retention_to_seconds(text)
        ours = True
    except ValueError:
        ours = False
    assert ours is taken


@pytest.mark.parametrize(
    ("wrong", "words"), [("23h", "less than 1d"), ("0", "less than 1d"), ("90m", "such as 14d"), ("two", "such as 14d")]
)
def test_no_retention(wrong: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        durations.retention_to_seconds(wrong)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2 * DAY, "3.2 days"), (90, "90 seconds"), (2 * HOUR, "2 hours"), (47 * HOUR, "47 hours")]
)
def test_a_duration_for_people(seconds: float, text: str) -> None:
    assert durations.from_seconds(seconds) == text


def test_what_fits() -> None:
    problems, claims = capacity.check(ROBOT)
    assert problems == []
    assert capacity.disk(claims, 10 * GIB, GIB) == []


def test_history_by_the_numbers() -> None:
    claim = capacity.history("14d", 100)
    assert claim.needed == 100 * 1.5 * 45 * DAY
    assert "556.2M" in claim.why
    assert "14d" in claim.why
    assert "100 samples/s" in claim.why


def test_queues_by_the_numbers() -> None:
    # vmagent keeps no less than a chunk, and one more until all of it was read.
    assert capacity.queues("1M", 1).needed == 2 * 536871040
    assert capacity.queues("2G", 3).needed == 3 * (2 * GIB + 536871040)


def test_an_outage_that_the_queue_does_not_hold() -> None:
    (problem,), _ = capacity.check(ROBOT | {"vmagent_outage": "30d"})
    # 1 GiB at 1500 / 15 samples a second of 12 bytes each.
    assert problem.startswith(
        "vmagent_queue_max 1G holds an outage of 10.4 days at 1500 series every 15s; "
        "vmagent_outage is 30d, which takes 2.9G."
    )
    assert "Raise vmagent_queue_max, or lower vmagent_outage" in problem


def test_a_robot_must_be_able_to_catch_up() -> None:
    # 1500 / 15 samples a second of 12 bytes each.
    assert capacity.check(ROBOT | {"vmagent_hub_rate_limit": "1201"})[0] == []
    (problem,), _ = capacity.check(ROBOT | {"vmagent_hub_rate_limit": "1200"})
    assert problem.startswith("vmagent_hub_rate_limit 1200 a second is not more than the robot writes, 1.2K a second")


@pytest.mark.parametrize(
    ("delay", "bytes_per_sample"), [("3s", 5 + 14 / 0.75), ("15s", 19), ("30s", 12), ("1m", 8.5), ("2m", 6.75)]
)
def test_the_more_scrapes_a_block_has_the_less_a_sample_takes(delay: str, bytes_per_sample: float) -> None:
    assert capacity.queued(1500, "15s", delay) == pytest.approx(100 * bytes_per_sample)


def test_a_small_queue_is_as_large_as_vmagent_makes_it() -> None:
    assert capacity.check(ROBOT | {"vmagent_queue_max": "1K"})[0] == []


def test_the_outage_to_the_second() -> None:
    held = GIB / (100 * 12)
    assert capacity.outage("1G", f"{int(held)}s", 1500, "15s", "30s") == []
    assert len(capacity.outage("1G", f"{int(held) + 1}s", 1500, "15s", "30s")) == 1


def test_a_disk_that_holds_each_alone_and_not_both() -> None:
    _, claims = capacity.check(ROBOT | {"victoriametrics_retention": "90d"})
    assert [capacity.disk([claim], 3 * GIB, GIB) for claim in claims] == [[], []]
    (problem,) = capacity.disk(claims, 3 * GIB, GIB)
    for words in (
        "has 3G",
        "1.5G for history",
        "90d",
        "1.5G for the hub's queue",
        "1G that must stay free",
        "4G may be",
    ):
        assert words in problem
    assert "Lower victoriametrics_retention or vmagent_queue_max" in problem


def test_a_hub_says_how_many_samples_come() -> None:
    hub = {"victoriametrics_retention": "90d", "victoriametrics_samples_per_second": 2000.0}
    problems, (claim,) = capacity.check(hub)
    assert problems == []
    assert claim.needed == 2000 * 1.5 * 121 * DAY
    # Nobody knows how many: nothing to compute.
    assert capacity.check({"victoriametrics_retention": "90d", "victoriametrics_samples_per_second": 0.0}) == ([], [])


def test_a_robot_without_hubs_needs_no_queue() -> None:
    problems, claims = capacity.check(ROBOT | {"vmagent_hubs": [], "vmagent_outage": "9y"})
    assert problems == []
    assert [claim.remedy for claim in claims] == ["victoriametrics_retention"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("victoriametrics_retention", "14 days"),
        ("vmagent_scrape_interval", "15"),
        ("vmagent_scrape_interval", "0s"),
        ("vmagent_hub_delay", "0s"),
        ("vmagent_hub_delay", "3m"),
        ("vmagent_outage", "two days"),
        ("vmagent_queue_max", "1GB"),
        ("vmagent_hub_rate_limit", "64k"),
        ("vmagent_series", 0),
        ("victoriametrics_scrape_interval", "often"),
    ],
)
def test_what_is_none_is_named_once(name: str, value: object) -> None:
    (problem,), _ = capacity.check(ROBOT | {name: value})
    assert problem.startswith(f"{name}: {value!r}")


# What others than vmagent follow has its value in group_vars: a role does not see another one's defaults.
FRESHNESS = ("vmagent_scrape_interval", "vmagent_hub_delay", "vmagent_series")


def default() -> dict[str, Any]:
    """vmagent's variables, as the role sets them."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "roles" / "vmagent" / "defaults" / "main.yml").read_text())
    return values


def test_by_default_the_queue_holds_the_outage_and_is_sent_faster_than_it_grows() -> None:
    assert capacity.check(default() | {"vmagent_hubs": ROBOT["vmagent_hubs"]})[0] == []


def test_a_hub_counts_on_as_many_series_as_a_robot_and_the_document_too() -> None:
    series = default()["vmagent_series"]
    fleet = yaml.safe_load((ROOT / "group_vars" / "all" / "main.yml").read_text())
    assert {name: fleet[name] for name in FRESHNESS} == {name: default()[name] for name in FRESHNESS}
    written = capacity.queued(series, "15s", "30s")
    text = (ROOT / "docs" / "architecture.md").read_text().replace("\n", " ")
    assert (
        f"A robot of {series:,} series, scraped each 15 s, fills {written:.0f} bytes a second: "
        f"{written * 48 * HOUR / 1e6:.0f} MB in 48 hours"
    ) in text
    assert f"away for a day has its {written * DAY / 1e6:.0f} MB sent" in text


def test_the_default_is_near_what_victoriametrics_and_vmagent_say_of_themselves(tmp_path: Path) -> None:
    """Without node_exporter and the sensor service, which have three quarters and depend on the machine."""
    database, agent = (f"127.0.0.1:{binaries.free_port()}" for _ in range(2))
    jobs = [{"job_name": name, "static_configs": [{"targets": [name]}]} for name in (database, agent)]
    scrape = tmp_path / "scrape.yml"
    scrape.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    own = [f"-httpListenAddr={database}", f"-storageDataPath={tmp_path / 'data'}"]
    push = [f"-remoteWrite.url=http://{database}/api/v1/write"] * 2 + [f"-remoteWrite.tmpDataPath={tmp_path / 'queue'}"]
    reads = [f"-httpListenAddr={agent}", f"-promscrape.config={scrape}", *push]

    def said(address: str) -> list[str]:
        return re.findall(r"^\w.*", probe.http_get(f"http://{address}/metrics", 5)[1], re.MULTILINE)

    def kept(address: str, keep: str) -> int:
        return sum(re.match(rf"(?:{keep})[ {{]", line) is not None for line in said(address))

    of_database = yaml.safe_load((ROOT / "roles" / "victoriametrics" / "defaults" / "main.yml").read_text())
    database_keep = Template(of_database["victoriametrics_metrics_keep"]).render(victoriametrics_dashboards="robot")

    with (
        binaries.running("victoriametrics", own, f"http://{database}/health"),
        binaries.running("vmagent", reads, f"http://{agent}/health"),
    ):
        scraped = 'vm_promscrape_scrapes_total{status_code="200"} '
        binaries.eventually(
            lambda: any(line.startswith(scraped) and int(line.split()[-1]) >= 6 for line in said(agent)), "no scrapes"
        )
        found = kept(database, database_keep)
        found += kept(agent, default()["vmagent_metrics_keep"])
    assert 0.08 < found / default()["vmagent_series"] < 0.16, found


def test_what_may_be_empty() -> None:
    assert capacity.check(ROBOT | {"victoriametrics_scrape_interval": ""})[0] == []
