"""What a hub lacks of a robot, from a few numbers of each: on two real databases, and in the cases between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health import holes
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import promql
from databases import Database, database

NOW = int(time.time()) // 60 * 60
MINUTES = 30
START = NOW - 60 * MINUTES


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Database]]:
    with database(tmp_path_factory.mktemp("robot")) as robot, database(tmp_path_factory.mktemp("hub")) as hub:
        yield robot, hub


def scrapes(seconds: Sequence[int]) -> list[tuple[int, float]]:
    return [(1000 * (START + second), 1.0) for second in seconds]


def test_a_minute_that_a_hub_lacks_is_found_with_its_time(two: tuple[Database, Database]) -> None:
    robot, hub = two
    everything = range(5, 60 * MINUTES, 15)
    gone = range(607, 670)
    for job in ("vmagent", "sensor"):
        labels = {"__name__": "up", "job": job, "robot": "robot-1"}
        robot.add(labels, scrapes(everything))
        hub.add(labels, scrapes([second for second in everything if second not in gone]))
        hub.add({**labels, "robot": "robot-2"}, scrapes(everything))
    own, there = (json.loads(json.dumps(holes.count(each.url, NOW, 60 * MINUTES, 20))) for each in (robot, hub))
    assert set(there["robots"]) == {"robot-1", "robot-2"}
    assert own["robots"]["robot-1"] == [8, MINUTES]
    assert there["robots"]["robot-1"] == [8, 10, 2, 1, 6, 1, 8, 18]
    assert holes.compare("robot-1", own, there, NOW) == holes.Hole(60.0, START + 600)
    assert holes.compare("robot-2", own, there, NOW) is None


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(promql.QueryError, match="refused"):
        holes.count("http://127.0.0.1:1", NOW, 60, 1)


def counted(*runs: int, start: int = 0) -> dict[str, Any]:
    return {"start": start, "robots": {"r": list(runs)}}


ROBOT = counted(16, 60)


@pytest.mark.parametrize(
    ("hub", "seconds"),
    [
        (counted(16, 60), None),
        # One scrape of four services in a minute: an end or a start has cut it off.
        (counted(16, 30, 12, 1, 16, 29), None),
        (counted(16, 30, 8, 1, 16, 29), 30.0),
        (counted(16, 30, 0, 2, 16, 28), 120.0),
        # What is newer than all that the hub has is on its way.
        (counted(16, 50, 0, 10), None),
        (counted(16, 20, 0, 1, 16, 29, 0, 10), 60.0),
        (counted(), None),
        # It has known this robot for half of the time.
        (counted(0, 30, 16, 30), 1800.0),
        # Whose clocks are apart compares what both have looked at.
        (counted(16, 60, start=120), None),
        # It has more than the robot, whose own history has lost something.
        (counted(20, 60), None),
    ],
)
def test_what_is_missing_is_what_is_older_than_something_that_is_there(
    hub: dict[str, Any], seconds: float | None
) -> None:
    found = holes.compare("r", ROBOT, hub, 1e9)
    assert (found.seconds if found else None) == seconds


def test_what_is_young_is_left_out() -> None:
    hub = counted(16, 57, 0, 1, 16, 2)
    assert holes.compare("r", ROBOT, hub, 57 * 60) is None
    assert holes.compare("r", ROBOT, hub, 58 * 60) is None  # nothing newer has been looked at
    assert holes.compare("r", ROBOT, hub, 59 * 60) == holes.Hole(60.0, 57 * 60)
