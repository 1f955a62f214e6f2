#!/usr/bin/env python3
"""The images of the lab's machines: ``lab/images.py [SUITE...]``, both suites at the same time unless told.

``roverwatch-lab/<suite>:bare`` is a Debian with systemd and sshd and no container engine, ``…:podman`` the same with
podman, as robot vendors ship it. They are built once; another Dockerfile or another base builds them again. The base is
Debian's own image where a registry answers, one made from Debian's mirror where none does.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

LAB = Path(__file__).resolve().parent
ROOT = LAB.parent
sys.path.append(str(ROOT / "collections"))
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import base_images
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.base_images import LOCK, Fallback, Tell, Wanted
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.sources import PINS, SourceError

ARCH = platform.machine()
SUITES = ("bookworm", "trixie")
TARGETS = ("bare", "podman")
RECIPE = "roverwatch.recipe"
INPUTS = ("Dockerfile", "webhook.py", "lab-webhook.service")


class BuildFailed(Exception):
    """An image was not built; the text is the builder's."""


def main() -> None:
    suites = sys.argv[1:] or list(SUITES)
    digests = yaml.safe_load((ROOT / LOCK).read_text())["artifacts_base_digests"]
    source = yaml.safe_load((ROOT / PINS).read_text())["artifacts_source"]
    with ThreadPoolExecutor() as pool:
        failures = [*filter(None, pool.map(lambda suite: attempt(suite, digests, source), suites))]
    if failures:
        sys.exit("\n".join(failures))


def attempt(suite: str, digests: dict[str, str], source: str) -> str:
    """Have the images of a suite; what went wrong, if anything did."""
    started = time.monotonic()

    def tell(text: str) -> None:
        print(f"image {suite}: {text} ({time.monotonic() - started:.0f}s)", flush=True)

    try:
        build(suite, digests, source, tell)
    except (SourceError, BuildFailed) as error:
        return f"image {suite}: {error}"
    return ""


def build(suite: str, digests: dict[str, str], source: str, tell: Tell) -> None:
    """Have the images of a suite in the engine. Raises SourceError or BuildFailed."""
    inputs = [(LAB / name).read_bytes() for name in INPUTS]
    wanted = base_of(suite, digests, source)
    inputs.append(wanted.pinned.encode())
    recipe = hashlib.sha256(b"\n".join(inputs)).hexdigest()[:12]
    missing = []
    for target in TARGETS:
        there = base_images.inspect(image(suite, target))
        if there and there.labels.get(RECIPE) == recipe:
            tell(f"{target}: cached")
        else:
            missing.append(target)
    if not missing:
        return
    base = base_images.choose(wanted, tell)
    tell(f"on {base.name}{base.note}")
    for target in missing:
        tell(f"{target}: building")
        command = ["docker", "build", "--target", target, "--build-arg", f"BASE_IMAGE={base.name}"]
        command += ["--label", f"{RECIPE}={recipe}", "--tag", image(suite, target), str(LAB)]
        # The classic builder is in every Docker, and takes a base that exists in the local engine only.
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise BuildFailed(f"{target} was not built:\n{done.stdout}{done.stderr}")
        tell(f"{target}: built")


def image(suite: str, target: str) -> str:
    """The name of a machine's image."""
    return f"roverwatch-lab/{suite}:{target}"


def base_of(suite: str, digests: dict[str, str], source: str) -> Wanted:
    """Debian's own image, or what takes its place."""
    name = f"debian:{suite}-slim"
    made_here = Fallback("roverwatch-lab/base", suite, ("ca-certificates",), "minbase", "bash")
    return Wanted(name, ARCH, digests.get(name, ""), source, made_here)


if __name__ == "__main__":
    main()
