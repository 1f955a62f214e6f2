"""One rollout at a time for a robot, on one controller. A robot itself refuses whoever comes from another one."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path

from .planning import RolloutError


def claim(rollouts: Path, pid: int, release: str, robots: Sequence[str]) -> None:
    """Write down that this process updates these robots. Raises RolloutError while another one updates any of them.

    This keeps apart what runs on one controller. A robot itself refuses whoever comes from another one.
    """
    folder = rollouts / ".running"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in folder.glob("*.json"):
            other = json.loads(path.read_text())
            if _started(other["pid"]) != other["started"]:
                path.unlink()  # it was killed
            elif shared := sorted(set(other["robots"]) & set(robots)):
                raise RolloutError(
                    f"release {other['release']} is being rolled out to {', '.join(shared[:5])} by process "
                    f"{other['pid']} of this controller: wait until it ends, then run this again"
                )
        claimed = {"pid": pid, "started": _started(pid), "release": release, "robots": list(robots)}
        (folder / f"{pid}.json").write_text(json.dumps(claimed))


def disclaim(rollouts: Path, pid: int) -> None:
    """Take back what claim() wrote down."""
    (rollouts / ".running" / f"{pid}.json").unlink(missing_ok=True)


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks, which tells it from a later one of the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return None
