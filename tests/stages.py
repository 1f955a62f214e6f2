"""The stages of `make test`: which there are, which run beside each other, and which of them a change can touch.

The lanes run beside each other, the stages of a lane one after another.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Lane:
    """Stages that run one after another."""

    stages: tuple[str, ...]
    # How far it stands back where two lanes want the same core.
    nice: int = 0


LANES = {
    # Each makes its own machines, and waits: for bakes, deadlines, restarts. The first measures how long services do
    # not answer, so this lane goes before the others.
    "own": Lane(("rolling_update", "power")),
    # In this order on the same machines: bare, provisioned, with rules, bare again, with another engine.
    "shared": Lane(("blank_check", "robot", "hub", "host_firewall", "decommission", "docker_engine"), nice=3),
    # What needs no machines takes what is left of the time, and after it what waits most, or is short.
    "idle": Lane(("lint", "unit", "dead_zone", "lived_in"), nice=10),
}
# Which lab's machines a stage has; what they compute is the stage's.
SHARED_LAB = "test"
LABS = {
    **dict.fromkeys(LANES["shared"].stages, SHARED_LAB),
    "rolling_update": "rollout",
    "dead_zone": "outage",
    "power": "power",
    "lived_in": "lived_in",
}
STAGES = tuple(stage for lane in LANES.values() for stage in lane.stages)

NO_MACHINE = tuple(stage for stage in STAGES if stage not in LABS)
SCENARIOS = tuple(stage for stage in STAGES if stage not in NO_MACHINE)

# What a change can touch besides lint and the unit tests, which read the whole tree: by the first pattern that matches,
# `*` goes across directories. A row for a part of a folder is for what nobody else uses.
TOUCHES: tuple[tuple[str, tuple[str, ...]], ...] = (
    # No machine has it.
    ("*.md", ()),
    ("docs/*", ()),
    ("bench/*", ()),
    (".github/*", ()),
    (".ansible-lint", ()),
    (".gitignore", ()),
    (".yamllint", ()),
    ("LICENSE", ()),
    ("app/tests/*", ()),
    ("tests/unit/*", ()),
    ("tests/compute_api/*", ()),
    ("conftest.py", ()),
    ("tests/ansible_lint.py", ()),
    ("tests/registry.py", ()),
    ("tests/stopwatch.py", ()),
    ("inventory/robots.example.yml", ()),
    ("*gcp*", ()),
    ("*outdated*", ()),
    # One scenario has it, or some have.
    *((f"molecule/{scenario}/*", (scenario,)) for scenario in SCENARIOS),
    ("tests/releases/*", ("rolling_update", "power")),
    ("tests/interruption.py", ("rolling_update",)),
    ("tests/power.py", ("power",)),
    ("lab/disks.py", ("power",)),
    ("tests/collection.py", ("blank_check",)),
    ("galaxy.yml", ("blank_check",)),
    ("meta/*", ("blank_check",)),
    ("tests/gateway.py", ("hub",)),
    ("tests/browser.py", ("hub",)),
    ("dashboards/*", ("hub",)),
    ("roles/vmauth/*", ("blank_check", "robot", "hub", "dead_zone", "decommission", "rolling_update", "power")),
    ("roles/vmalert/*", ("blank_check", "hub", "decommission", "power")),
    ("roles/alertmanager/*", ("blank_check", "hub", "decommission", "power")),
    (
        "roles/host_firewall/*",
        ("lived_in", "blank_check", "robot", "host_firewall", "decommission", "rolling_update", "power"),
    ),
    ("roles/release/*", ("lived_in", "blank_check", "robot", "decommission", "rolling_update", "power")),
    ("roles/rollout/*", ("rolling_update", "power")),
    ("roles/backfill/*", ("dead_zone",)),
    ("roles/backup/*", ("hub", "power")),
    ("roles/credentials/*", ("hub",)),
    ("roles/dashboards/*", ("hub",)),
    ("roles/decommission/*", ("decommission", "lived_in", "power")),
    ("roles/load_test/*", ("robot",)),
    ("roles/restore/*", ("hub", "power")),
    ("roles/rollback/*", ("rolling_update", "power")),
    ("playbooks/backfill.yml", ("dead_zone",)),
    ("playbooks/backup.yml", ("hub", "power")),
    ("playbooks/credentials.yml", ("hub",)),
    ("playbooks/dashboards.yml", ("hub",)),
    ("playbooks/decommission.yml", ("decommission", "lived_in", "power")),
    ("playbooks/firewall.yml", ("host_firewall",)),
    ("playbooks/load_test.yml", ("robot",)),
    ("playbooks/releases.yml", ("rolling_update",)),
    ("playbooks/restore.yml", ("hub", "power")),
    ("playbooks/rollback.yml", ("rolling_update", "power")),
    ("playbooks/rolling_update.yml", ("rolling_update", "power")),
    ("playbooks/rotate_secret.yml", ("hub",)),
    ("playbooks/lab/settle.yml", ()),
    ("plugins/*/backfill*", ("dead_zone",)),
    ("plugins/*/backup/*", ("hub", "power")),
    ("plugins/*/hub_backup.py", ("hub", "power")),
    ("plugins/*/hub_restore.py", ("hub", "power")),
    ("plugins/*/load*", ("robot",)),
    ("plugins/*/range_queries.py", ("hub",)),
    ("plugins/*/releases_report.py", ("rolling_update",)),
    ("plugins/*/rollout*", ("rolling_update", "power")),
    # Every scenario has the rest.
    (".ci/*", SCENARIOS),
    (".config/*", SCENARIOS),
    ("Makefile", SCENARIOS),
    ("ansible.cfg", SCENARIOS),
    ("app/*", SCENARIOS),
    ("collections/*", SCENARIOS),
    ("group_vars/*", SCENARIOS),
    ("inventory/*", SCENARIOS),
    ("lab/*", SCENARIOS),
    ("molecule/*", SCENARIOS),
    ("playbooks/*", SCENARIOS),
    ("plugins/*", SCENARIOS),
    ("pyproject.toml", SCENARIOS),
    ("requirements.*", SCENARIOS),
    ("roles/*", SCENARIOS),
    ("tests/*", SCENARIOS),
)


class UnknownStage(Exception):
    """A name that is none; the text says which there are."""


class NothingToCompare(Exception):
    """Git does not know what has changed."""


def named(text: str) -> tuple[str, ...]:
    """The stages of a list like `hub,robot`. Raises UnknownStage."""
    names = text.replace(",", " ").split()
    for name in names:
        if name not in STAGES:
            raise UnknownStage(f"ONLY: there is no stage {name}; there are: {' '.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in names)


def touched(files: Iterable[str]) -> dict[str, str]:
    """Stages that a change of these files can touch, each with the first file that touches it."""
    found: dict[str, str] = {}
    for file in files:
        for stage in (*NO_MACHINE, *stages_of(file)):
            found.setdefault(stage, file)
    return found


def stages_of(file: str) -> tuple[str, ...]:
    """The scenarios that a file belongs to; all of them for one that no row knows."""
    return next((stages for pattern, stages in TOUCHES if fnmatch(file, pattern)), SCENARIOS)


def changed(root: Path = ROOT) -> tuple[str, list[str]]:
    """What is compared with, and the files that are otherwise now, or new. Raises NothingToCompare."""
    base = _git(root, "merge-base", "HEAD", "origin/main")
    against = f"{base[:7]}, where this branch left origin/main" if base else "the last commit"
    tracked = _git(root, "diff", "--name-only", base or "HEAD")
    untracked = _git(root, "ls-files", "--others", "--exclude-standard")
    if tracked is None or untracked is None:
        raise NothingToCompare(f"CHANGED: {root} is no repository of git with a commit")
    return against, sorted({*tracked.splitlines(), *untracked.splitlines()})


def _git(root: Path, *args: str) -> str | None:
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def chosen(environment: Mapping[str, str]) -> tuple[tuple[str, ...], list[str]]:
    """The stages to run, and what there is to say of the choice. Raises UnknownStage, NothingToCompare."""
    only, by_change = environment.get("ONLY", ""), environment.get("CHANGED", "")
    if only:
        return named(only), []
    if by_change:
        against, files = changed()
        why = touched(files)
        lines = [f"CHANGED: {len(files)} files differ from {against}"]
        lines += [f"  {stage}: {file}" for stage, file in why.items()]
        return tuple(stage for stage in STAGES if stage in why), lines
    return STAGES, []
