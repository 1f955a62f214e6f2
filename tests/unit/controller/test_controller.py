"""What a run that changes nothing costs at the most: a task that reaches a machine is a round trip over its radio."""

from __future__ import annotations

import pytest

from bench import controller
from bench.report import ROOT

ROUND_TRIPS = 10
TASKS = 14


@pytest.mark.parametrize(("group", "hosts"), [("robots", 3), ("hubs", 1)])
def test_a_run_that_changes_nothing_is_a_few_round_trips(group, hosts):
    if not (ROOT / "artifacts" / "manifest.json").exists():
        pytest.skip("the artifact store is empty: make artifacts")
    run = controller.site(3, group)
    assert run.hosts == hosts
    assert run.calls <= ROUND_TRIPS
    assert run.ok <= TASKS
