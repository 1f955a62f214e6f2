"""The journal of a rollout, the only state that it has on the controller: one JSON object a line.

What a robot went through has `robot`, `phase` (one of PHASES), `wave`, `from`, `to` and `reason`; what concerns the
rollout has `phase` alone (one of ROLLOUT_PHASES). Every line has `time` (ISO 8601, UTC) and `run`, which tells the runs
of a command apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

# In the rollout's directory.
JOURNAL = "journal.jsonl"

# What a robot goes through, as the diagram in docs/architecture.md draws it.
PHASES = (
    "pending",
    "skipped",
    "begun",
    "deployed",
    "healthy",
    "confirmed",
    "rolled_back",
    "failed",
    "unreachable",
)
ROLLOUT_PHASES = ("planned", "wave_started", "gate", "wave_ended", "ended")
# What counts against the failure budget.
FAILURES = ("rolled_back", "failed", "unreachable")

Line = Mapping[str, Any]


def now() -> str:
    """This moment as the journal writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def seconds(time: str) -> float:
    """Seconds since the epoch of a time in the journal."""
    return datetime.fromisoformat(time).timestamp()


def append(path: Path, line: Line) -> None:
    """Add a line, which is on the disk when this returns. Lines of several processes do not mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"time": now(), **line}, ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            text = "\n" + text  # after a line that was cut off
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """Every line. One that the end of a controller cut off is left out, as what it tells of was not finished."""
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def of_run(lines: Iterable[Line], run: str) -> list[Line]:
    """The lines of one run."""
    return [line for line in lines if line["run"] == run]


def last_phases(lines: Iterable[Line]) -> dict[str, Line]:
    """The last line of each robot."""
    return {line["robot"]: line for line in lines if line.get("robot")}


def failures(lines: Iterable[Line], run: str) -> list[Line]:
    """The last line of each robot that failed in this run."""
    return [line for line in last_phases(of_run(lines, run)).values() if line["phase"] in FAILURES]


def at_phase(lines: Iterable[Line], run: str, robots: Sequence[str], phase: str) -> list[str]:
    """Those of the robots whose last phase in this run is that one."""
    phases = last_phases(of_run(lines, run))
    return [robot for robot in robots if phases.get(robot, {}).get("phase") == phase]


def told(lines: Sequence[Line]) -> str:
    """Who failed and why, in a line for a person."""
    named = [
        f"{line['robot']} {line['phase'].replace('_', ' ')}: {line.get('reason') or 'no reason'}" for line in lines
    ]
    return "; ".join(named[:3]) + (f"; and {len(named) - 3} more" if len(named) > 3 else "")
