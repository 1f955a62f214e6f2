"""The app's lock has a wheel for every machine, so that no image ever needs a compiler, Alpine least of all.

Asks the package index; skipped where that cannot be reached.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from roverwatch.images import wheel_options

LOCK = Path(__file__).parents[2] / "app/requirements.txt"


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("libc", ["musl", "gnu"])
def test_every_requirement_has_a_wheel_with_a_locked_hash(tmp_path: Path, libc: str, arch: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += [
        "--require-hashes",
        "--only-binary=:all:",
        "--dest",
        str(tmp_path),
        "--requirement",
        str(LOCK),
    ]
    command += wheel_options(f"cpython-313-{arch}-linux-{libc}", arch)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Failed to establish a new connection" in done.stderr or "NameResolutionError" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    pinned = [line.split("==")[0] for line in LOCK.read_text().splitlines() if "==" in line and line[0] != " "]
    wheels = sorted(path.name for path in tmp_path.iterdir())
    assert len(wheels) == len(pinned)
    (markup,) = [name for name in wheels if name.startswith("markupsafe")]
    assert markup.endswith(f"_{arch}.whl"), "the only requirement with compiled code"
    assert ("musllinux" in markup) == (libc == "musl")
