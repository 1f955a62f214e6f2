"""What hosted CI does, as far as it can be seen without it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
JOBS = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]


def stages() -> set[str]:
    """What `make test` has, as it says itself."""
    command = [sys.executable, "tests/run.py"]
    done = subprocess.run(command, cwd=ROOT, env={"ONLY": "none"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    found = re.fullmatch(r"ONLY: there is no stage none; there are: (.+)\n", done.stderr)
    assert found, done.stderr
    return set(found[1].split())


def test_every_scenario_is_a_stage_of_make_test() -> None:
    scenarios = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")} - {"default"}
    assert stages() == scenarios | {"lint", "unit"}


def test_hosted_ci_runs_every_stage_once() -> None:
    jobs = [stage for only in JOBS["stages"]["strategy"]["matrix"]["only"] for stage in only.split(",")]
    assert sorted(jobs) == sorted(stages())


def test_every_job_ends_within_20_minutes() -> None:
    assert {name: job["timeout-minutes"] for name, job in JOBS.items()} == dict.fromkeys(JOBS, 20)


def test_no_step_asks_for_root() -> None:
    words = [word for job in JOBS.values() for step in job["steps"] for word in shlex.split(step.get("run", ""))]
    assert not {"sudo", "su", "apt-get"} & set(words)


def test_one_job_runs_nothing_but_the_readmes_two_commands() -> None:
    readme = (ROOT / "README.md").read_text().split("## Try it")[1]
    commands = [line.split("#")[0].strip() for line in readme.split("```")[1].splitlines()[1:]]
    assert [step["run"] for step in JOBS["readme"]["steps"] if "run" in step] == commands
    assert JOBS["readme"]["strategy"]["matrix"]["machine"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]
