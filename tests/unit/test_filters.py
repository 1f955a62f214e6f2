"""Filters for lists, and what a program is told of its cap."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.roverwatch.fleet.plugins.filter import lists, memory


def test_rows_become_dictionaries():
    assert lists.to_dicts([("hub-1", "https://a"), ("hub-2", "https://b")], "name", "url") == [
        {"name": "hub-1", "url": "https://a"},
        {"name": "hub-2", "url": "https://b"},
    ]
    with pytest.raises(ValueError, match="zip"):
        lists.to_dicts([("hub-1",)], "name", "url")


def test_a_file_of_the_operator_takes_the_place_of_the_roles():
    files = [("role/edges.yml", "role\n"), ("role/robots.yml", "robots\n\n"), ("own/edges.yml", "own\n")]
    assert lists.to_files(files, "/etc/x", {"validate": ["check"]}) == [
        {"path": "/etc/x/edges.yml", "content": "own\n", "validate": ["check"]},
        {"path": "/etc/x/robots.yml", "content": "robots\n\n", "validate": ["check"]},
    ]
    assert lists.to_files([], "/etc/x") == []


def test_a_program_is_told_of_a_share_of_its_cap():
    assert memory.database_memory("100M") == 45 * 1024**2
    assert memory.agent_memory("48M") == 16 * 1024**2
    with pytest.raises(AnsibleFilterError, match="is no size"):
        memory.agent_memory("much")
