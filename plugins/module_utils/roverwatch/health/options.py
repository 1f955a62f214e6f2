"""What a check of a machine is told: what the machine should be, and where things lie on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..service import records
from ..system import cgroup, filesystems


@dataclass(frozen=True)
class Options:
    """What the machine should be. Sizes in bytes, times in seconds; `host` is its name in the inventory."""

    host: str
    expected_units: Sequence[str] = ()
    slice_unit: str = "roverwatch.slice"
    memory_budget: int | None = None
    hub_query_url: str | None = None
    ready_timeout_seconds: float = 2.0
    oom_window_seconds: float = 900.0
    hub_timeout_seconds: float = 5.0
    restart_window_seconds: float = 600.0
    restarts_allowed: int = 2
    hubs_may_be_silent: bool = False
    holes_period_seconds: float = 0.0

    @property
    def redeploy(self) -> str:
        """The command that puts on the machine what it should have."""
        return f"ansible-playbook playbooks/site.yml --limit {self.host}"

    def journal(self, unit: str) -> str:
        """The command that says why a unit does not do its work."""
        return f"on {self.host}: journalctl -u {unit} -n 50"


@dataclass(frozen=True)
class Paths:
    """Where a machine keeps what is read here."""

    services: Path = records.DIRECTORY
    oom_records: Path = cgroup.OOM_RECORDS
    proc: Path = cgroup.PROC
    firewall: Path = Path("/etc/roverwatch/firewall.nft")
    data: Path = filesystems.DATA
    also_written: Sequence[Path] = filesystems.OTHERS


PATHS = Paths()
