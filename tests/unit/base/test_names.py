"""Names and labels: what an inventory may call things, and what YAML makes of what somebody wrote."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.base import names


@pytest.mark.parametrize("name", ["robot-1", "10.0.0.4", "r", "R_2", "hub.example.com", "7", "x" * 64])
def test_a_name_that_can_be_a_file_and_a_user(name: str) -> None:
    assert names.inventory_name(name) == []


@pytest.mark.parametrize(
    "name",
    ["infra/hub-1", "2001:db8::5", "../x", "a b", "röver", ".hidden", "-x", "a.", "", "a\n", "user@host", True, 7],
)
def test_a_name_that_cannot(name: object) -> None:
    (problem,) = names.inventory_name(name)
    assert repr(name) in problem
    assert "ansible_host" in problem


def test_who_logs_in_at_the_gateway() -> None:
    assert names.user("vmauth_readers", "operator") == []
    (problem,) = names.user("vmauth_readers", "grafana:main")  # basic auth ends the name there
    assert problem.startswith("vmauth_readers: 'grafana:main' cannot be a user")


def test_a_name_that_is_too_long() -> None:
    (problem,) = names.inventory_name("x" * 65)
    assert "65 characters" in problem


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("fleet: yes", "fleet is true"),
        ("fleet: off", "fleet is false"),
        ("site: 007", "site is 7, a number"),
        ("site: 1.10", "site is 1.1, a number"),
        ("site: 2026-11-28", "a date"),
        ("site: [a]", "site is a list or a mapping"),
        ("site:", "site is nothing"),
        ('site: "a\\nb"', "no line ends"),
        ('site: " a"', "no blanks around"),
        ("my-site: a", "no name of a label"),
        ("site: " + "x" * 129, "129 characters"),
    ],
)
def test_a_label_that_is_not_what_was_written(written: str, words: str) -> None:
    (problem,) = names.labels("vmagent_labels", yaml.safe_load(written))
    assert problem.startswith("vmagent_labels: ")
    assert words in problem


@pytest.mark.parametrize("written", ["site: '007'", "fleet: 'yes'", "site: Köln 3", "site: ''", "robot: [a]"])
def test_a_label_that_is(written: str) -> None:
    values: dict[str, Any] = yaml.safe_load(written)
    assert names.labels("vmagent_labels", values) == []
