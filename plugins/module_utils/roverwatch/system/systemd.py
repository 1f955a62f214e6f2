"""Ask systemd about units, with as few processes as the question needs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence

# systemd answers in milliseconds; a manager that takes this long is stuck and must not take the caller along.
COMMAND_TIMEOUT_SECONDS = 10

# The message "Scheduled restart job" (SD_MESSAGE_UNIT_RESTART_SCHEDULED in sd-messages.h).
RESTART_SCHEDULED = "5eb03494b6584870a536b337290809b3"

UNIT_SUFFIXES = (
    ".service",
    ".slice",
    ".scope",
    ".socket",
    ".timer",
    ".target",
    ".mount",
    ".automount",
    ".path",
    ".swap",
    ".device",
)


class SystemdError(Exception):
    """systemd could not be asked, or refused to answer; the text carries its stderr."""


def full_name(unit: str) -> str:
    """The unit's name with its suffix: a bare name means a service, as on systemctl's command line."""
    return unit if unit.endswith(UNIT_SUFFIXES) else f"{unit}.service"


def show(unit: str, properties: Sequence[str]) -> dict[str, str]:
    """Properties of one unit as systemd prints them.

    A unit that does not exist is no error for systemd: it has LoadState=not-found. A property that the unit's
    type does not have is missing from the answer. `Id`, the unit's full name, is always there.
    """
    return show_many([unit], properties)[unit]


def show_many(units: Sequence[str], properties: Sequence[str]) -> dict[str, dict[str, str]]:
    """Properties of several units, keyed by the names given, from a single `systemctl show`."""
    if not units:
        return {}
    names = [full_name(unit) for unit in units]
    # Every unit has an Id, so no unit's block can be empty and vanish between the separators.
    wanted = ",".join(["Id", *properties])
    output = _run(["systemctl", "show", "--no-pager", f"--property={wanted}", "--", *names])
    blocks = parse_show(output)
    if len(blocks) != len(units):
        # systemctl prints one block per argument, in their order; anything else cannot be attributed.
        raise SystemdError(f"systemctl show printed {len(blocks)} blocks for {len(units)} units: {output!r}")
    return {unit: blocks[index] for index, unit in enumerate(units)}


def parse_show(output: str) -> list[dict[str, str]]:
    """Split the output of `systemctl show` into one dict per unit; an empty line separates the units."""
    blocks: list[dict[str, str]] = []
    for block in output.strip("\n").split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines())
        blocks.append({key: value for key, sign, value in pairs if sign})
    return blocks


def age(shown: Mapping[str, str]) -> float:
    """Seconds since a unit's main process was started, from its ExecMainStartTimestampMonotonic."""
    return time.clock_gettime(time.CLOCK_MONOTONIC) - int(shown["ExecMainStartTimestampMonotonic"]) / 1e6


def restarts_in_journal(unit: str, seconds: float) -> int:
    """How often systemd has started a unit again by itself in the last seconds, as far as the journal knows.

    What somebody asked for (a deployment, `systemctl restart`) is none of these.
    """
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--since=-{seconds:.0f}s"]
    try:
        return len(_run([*command, f"MESSAGE_ID={RESTART_SCHEDULED}", f"UNIT={full_name(unit)}"]).splitlines())
    except SystemdError:
        return 0


def journal_tail(unit: str, lines: int = 20) -> list[str]:
    """The last lines that a unit logged; empty where there is no journal to read."""
    command = ["journalctl", "--no-pager", "--quiet", f"--lines={lines}", f"--unit={full_name(unit)}"]
    try:
        return _run(command).splitlines()
    except SystemdError:
        return []


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemdError(f"{command[0]}: {error}: is systemd PID 1 there, and does it answer?") from error
    if done.returncode != 0:
        raise SystemdError(f"{command[0]} exited with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
