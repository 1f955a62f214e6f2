"""The passwords at the hubs."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.roverwatch.fleet.plugins.filter.credential import credential

SECRET = "0123456789abcdef" * 4


def test_it_is_the_hmac_that_others_can_compute():
    """printf robot/robot-1 | openssl dgst -sha256 -hmac $SECRET"""
    expected = "bca18561b4a000128fd0c9444ab28b2bc56d7393dbd6325e4e66c3ec2790d34d"
    assert credential(SECRET, "robot", "robot-1") == expected


def test_no_two_names_kinds_or_secrets_share_one():
    made = [
        credential(secret, kind, name)
        for secret in (SECRET, SECRET[:-1])
        for kind in ("robot", "reader")
        for name in ("robot-1", "robot-2", "reader/robot-1", "")
    ]
    assert len(set(made)) == len(made)


def test_without_a_secret_there_is_no_password():
    assert credential("", "robot", "robot-1") == ""


def test_a_kind_that_is_not_known_is_an_error():
    with pytest.raises(AnsibleFilterError, match="'admin' is none of robot, reader"):
        credential(SECRET, "admin", "robot-1")
