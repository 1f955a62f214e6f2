"""Who knows what is newest, asked by the programs that know how: git, skopeo and uv.

Proxies, authorities, logins and mirrors are those that these programs are set to. Each has a limited time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GIT_LIMIT = 30  # seconds
SKOPEO_LIMIT = 60  # Python's image has thousands of tags, some hundred with each answer
UV_LIMIT = 300  # it reads about each package, and has nothing in its cache the first time

# One lock serves every controller and every image: all platforms, from the oldest Python that either may have.
LOCK_OPTIONS = ["--upgrade", "--generate-hashes", "--no-emit-index-url", "--no-header", "--universal"]
LOCK_OPTIONS += ["--python-version=3.11"]


class NotAskedError(Exception):
    """Somebody could not be asked, or gave no answer of use; the text is the reason."""


def git_tags(repository: str) -> list[str]:
    """The tags of a repository anywhere."""
    listed = _run(["git", "ls-remote", "--tags", "--refs", "--", repository], GIT_LIMIT).decode()
    return [line.partition("refs/tags/")[2] for line in listed.splitlines()]


def image_tags(name: str) -> list[str]:
    """The tags of an image, by its name without a tag."""
    answer = json.loads(_run(["skopeo", "list-tags", f"docker://{name}"], SKOPEO_LIMIT))
    found: list[str] = answer["Tags"]
    return found


def image_digest(image: str) -> str:
    """The digest that a tag stands for now: that of the index of all architectures, where there is one."""
    index = _run(["skopeo", "inspect", "--raw", f"docker://{image}"], SKOPEO_LIMIT)
    return "sha256:" + hashlib.sha256(index).hexdigest()


def lock(requirements: Path, root: Path) -> str:
    """The text of the lock of a file of requirements, with the newest that it allows. `root` is named nowhere in it."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lock.txt"
        source = os.path.relpath(requirements, root)
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", *LOCK_OPTIONS, source, "-o", str(target)]
        _run(command, UV_LIMIT, root)
        text = target.read_text(encoding="utf-8")
    return f"# Locked from {requirements.name}: every file that may be installed, by its sha256.\n{text}"


def _run(command: list[str], limit: float, folder: Path | None = None) -> bytes:
    """What a program prints. Nothing may ask at the terminal; children that it has end with it."""
    if not shutil.which(command[0]):
        raise NotAskedError(f"{command[0]} is not here (on Debian: apt-get install {command[0]})")
    done = subprocess.run(
        ["timeout", "--kill-after=5", str(limit), *command],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode in {124, 137}:
        raise NotAskedError(f"no answer within {limit:g} s")
    if done.returncode != 0:
        raise NotAskedError(_words(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}")
    return done.stdout


def _words(errors: str) -> str:
    """What a program said of its failure, in one line; of skopeo without time and level."""
    logged = re.findall(r'level=fatal msg="((?:[^"\\]|\\.)*)"', errors)
    return " ".join((" ".join(logged).replace('\\"', '"') or errors).split())
