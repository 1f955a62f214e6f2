"""What was written down about the services of a machine when they were deployed: services.d."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..hub import uplink
from ..query import local_database

DIRECTORY = Path("/etc/roverwatch/services.d")
# The service that has the machine's samples: a robot's own history, or a hub's of the fleet.
DATABASE = local_database.UNIT


class RecordError(Exception):
    """A record is missing, or is none; the text says which and what to do."""


@dataclass(frozen=True)
class Installed:
    """One service."""

    unit: str
    kind: str
    version: str
    memory_max: int
    ready_url: str
    exe: str | None = None
    engine: str | None = None
    image: str | None = None
    image_id: str | None = None
    cid_file: str | None = None
    tls_port: int | None = None
    hubs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        """Where its API is."""
        return self.ready_url.rpartition("/")[0]


def read(directory: Path = DIRECTORY) -> list[Installed]:
    """The services that were deployed here, by name; none on a bare machine. Raises RecordError."""
    known = Installed.__dataclass_fields__
    installed = []
    for path in sorted(directory.glob("*.json")):
        try:
            record = json.loads(path.read_text())
            installed.append(Installed(**{key: value for key, value in record.items() if key in known}))
            uplink.read(installed[-1].hubs)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise RecordError(f"{path} is no description of a service: {error}; deploy it again") from error
    return installed


def find(unit: str, installed: Iterable[Installed]) -> Installed | None:
    """The service of this unit, if it is among these."""
    return next((item for item in installed if item.unit == unit), None)


def database_url(directory: Path = DIRECTORY) -> str:
    """Where the machine's VictoriaMetrics answers. Raises RecordError where there is none."""
    database = find(DATABASE, read(directory))
    if database is None:
        raise RecordError(f"{DATABASE} is not deployed here: ansible-playbook playbooks/site.yml")
    return database.base_url
