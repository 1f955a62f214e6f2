"""The ansible-core that Roverwatch runs on. An older one would end somewhere inside with an error of Python."""

from __future__ import annotations

from pathlib import Path

import ansible
from ansible.release import __version__

# As requires_ansible in the collection's meta/runtime.yml, which warns where it is not the callback that refuses.
NEEDED = (2, 19)


def refuse_older(version: str = __version__) -> None:
    """Leave with one line if this Ansible is older. What imports more of Ansible calls it before it does."""
    if tuple(map(int, version.split(".")[:2])) < NEEDED:
        raise SystemExit(
            f"ERROR! Roverwatch needs ansible-core {NEEDED[0]}.{NEEDED[1]} or newer. This is {version}, of"
            f" {Path(ansible.__file__).parent}: use another, in a checkout .venv/bin/ansible-playbook, which"
            " `make .venv/bin/.locked` makes"
        )
