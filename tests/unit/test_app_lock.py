"""The app's locks have a wheel for every machine, so that no image ever needs a compiler, Alpine least of all.

The wheels are asked of the package index; skipped where that cannot be reached.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.images import wheel_options
from sensor_service.sources import SOURCES, source_class

APP = Path(__file__).parents[2] / "app"
LOCKS = sorted(APP.glob("requirements*.txt"))


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("libc", ["musl", "gnu"])
def test_every_requirement_has_a_wheel_with_a_locked_hash(tmp_path: Path, libc: str, arch: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--dest", str(tmp_path)]
    command += [f"--requirement={lock}" for lock in LOCKS]
    command += wheel_options(f"cpython-313-{arch}-linux-{libc}", arch)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Failed to establish a new connection" in done.stderr or "NameResolutionError" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    lines = [line for lock in LOCKS for line in lock.read_text().splitlines()]
    pinned = [line.split("==")[0] for line in lines if "==" in line and line[0] != " "]
    assert {"flask", "paho-mqtt", "nvidia-ml-py"} < set(pinned)
    wheels = sorted(path.name for path in tmp_path.iterdir())
    assert len(wheels) == len(pinned)
    (markup,) = [name for name in wheels if name.startswith("markupsafe")]
    assert markup.endswith(f"_{arch}.whl"), "the only requirement with compiled code"
    assert ("musllinux" in markup) == (libc == "musl")


def test_each_extra_has_a_source_that_needs_it_and_a_lock() -> None:
    project = tomllib.loads((APP / "pyproject.toml").read_text())["project"]
    wanted = {"requirements": project["dependencies"]}
    wanted |= {f"requirements-{extra}": names for extra, names in project["optional-dependencies"].items()}
    assert {path.stem: path.read_text().split() for path in APP.glob("requirements*.in")} == wanted
    assert {path.stem for path in LOCKS} == set(wanted)
    extras = {found.extra[1] for found in map(source_class, SOURCES) if found.extra}
    assert extras == set(project["optional-dependencies"])


def test_the_locks_say_what_they_are_and_nothing_of_where_they_were_made() -> None:
    for lock in LOCKS:
        first, *rest = lock.read_text().splitlines()
        assert first == f"# Locked from {lock.stem}.in: every file that may be installed, by its sha256."
        assert not [line for line in rest if "://" in line or line.startswith("#")]
