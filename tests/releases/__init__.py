"""Releases that are good or bad in a known way, for the tests of rolling updates, in an artifact store of their own.

The store has all that ``artifacts/`` has, and a version more of the sensor service for each fault of faulty.py, and of
vmagent. `prepare` makes it, and says with which arguments of ansible-playbook each release is put onto a fleet:

    sensor_good         another image of the same service
    sensor_crashes      ends with 1 right after its first line in the log
    sensor_leaks        takes 6 MB/s from when it is ready, until the kernel kills it at its cap
    sensor_never_ready  has a source that never gives its first sample
    sensor_errors       has a source whose every second sample fails, and is ready all the while
    vmagent_good        the same program, in a file of another content

sensor_never_ready and sensor_errors are configurations of the version that is pinned. By hand:

    PYTHONPATH=tests:collections python -m releases
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    Entry,
    MissingArtifact,
    Store,
    relative_path,
    sha256_file,
)
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import images

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PINS = ROOT / "group_vars" / "all" / "artifacts.yml"
ARTIFACTS = ROOT / "artifacts"
# Of no lab: it outlives them, and is made anew only when what it is made from has changed.
STORE = ROOT / ".lab" / "releases"

# The faults of the images, by release.
FAULTS = {"sensor_good": "none", "sensor_crashes": "crash", "sensor_leaks": "leak"}
# Discard: nobody listens there.
SILENT = {"host": "127.0.0.1", "port": 9}


def prepare(store: Path = STORE, artifacts: Path = ARTIFACTS) -> dict[str, list[str]]:
    """Have every release in the store; the arguments of ansible-playbook that deploy each.

    Needs ``artifacts/`` filled, and the Docker engine where something has changed since the last time. Raises
    MissingArtifact, or BuildError when an image cannot be built.
    """
    inputs = _inputs(artifacts)
    stamp = store / "inputs"
    store.parent.mkdir(exist_ok=True)
    # The unit tests and the scenario may want it at the same time.
    with store.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != inputs:
            shutil.rmtree(store, ignore_errors=True)
            _fill(Store(store), Store(artifacts))
            stamp.write_text(inputs)
    return {name: ["--extra-vars", json.dumps(variables)] for name, variables in _variables(Store(store)).items()}


def _inputs(artifacts: Path) -> str:
    """The sha256 over all that decides what is in the store."""
    manifest = artifacts / "manifest.json"
    if not manifest.exists():
        raise MissingArtifact(f"{artifacts} is no artifact store yet: run `make artifacts`")
    digest = hashlib.sha256()
    for file in (manifest, PINS, HERE / "Dockerfile", *sorted(HERE.glob("*.py"))):
        digest.update(f"{file.name}\n{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _fill(store: Store, artifacts: Store) -> None:
    for entry in artifacts.entries():
        with store.staging() as staging:
            # The same file under a second name: the store has 250 MB.
            os.link(artifacts.path(entry), staging / "linked")
            store.add(entry, staging / "linked")
    _add_vmagent(store, pinned(store, "vmagent"))
    _add_sensors(store, pinned(store, "sensor"))


def pinned(store: Store, name: str) -> Entry:
    """What a deployment takes of the store as long as nothing else is said."""
    pins = yaml.safe_load(PINS.read_text())
    versions = {image["name"]: image["version"] for image in pins["artifacts_images"]}
    versions |= {name: bundle["version"] for bundle in pins["artifacts_binaries"] for name in bundle["debian"]["files"]}
    return store.find(name, versions[name], platform.machine())


# --- what is made ------------------------------------------------------------------------------------------


def _add_vmagent(store: Store, base: Entry) -> None:
    """Nothing reads what comes after the end of an ELF file."""
    version = f"{base.version}-good"
    with store.staging() as staging:
        file = staging / base.name
        file.write_bytes(store.path(base).read_bytes() + f"\n{version}\n".encode())
        entry = Entry(
            name=base.name,
            version=version,
            requested=f"{base.requested}-good",
            arch=base.arch,
            kind="binary",
            file=relative_path(base.name, version, base.arch, base.name),
            size=file.stat().st_size,
            sha256=sha256_file(file),
            source=f"{base.name} {base.version}, and a line after its end",
        )
        store.add(entry, file)


def _add_sensors(store: Store, base: Entry) -> None:
    assert base.reference
    images._run(["docker", "load", "--input", str(store.path(base))], f"load {base.reference}")
    try:
        for release, fault in FAULTS.items():
            _add_sensor(store, base, release, fault)
    finally:
        images._forget(base.reference, "")


def _add_sensor(store: Store, base: Entry, release: str, fault: str) -> None:
    kind = release.removeprefix("sensor_")
    version = f"{base.version}-{kind}"
    reference = f"localhost/roverwatch/{base.name}:{version}"
    command = ["docker", "build", "--network", "none", "--force-rm", "--tag", reference]
    command += ["--build-arg", f"BASE_IMAGE={base.reference}", "--build-arg", f"FAULT={fault}", str(HERE)]
    output = images._run(command, f"build {reference}")
    with store.staging() as staging:
        packed = staging / "image.tar.gz"
        try:
            images._save(reference, packed)
        finally:
            images._forget(reference, output)
        entry = Entry(
            name=base.name,
            version=version,
            requested=f"{base.requested}-{kind}",
            arch=base.arch,
            kind="image",
            file=relative_path(base.name, version, base.arch, f"{base.name}.tar.gz"),
            size=packed.stat().st_size,
            sha256=sha256_file(packed),
            source=f"{base.reference} with the fault: {fault}",
            image_id=images.image_id_of(packed),
            reference=reference,
            base_image=f"{base.reference}@{base.image_id}",
        )
        store.add(entry, packed)


# --- what is said to ansible-playbook ----------------------------------------------------------------------


def _variables(store: Store) -> dict[str, dict[str, Any]]:
    sensor, vmagent = pinned(store, "sensor"), pinned(store, "vmagent")
    found: dict[str, dict[str, Any]] = {
        release: {"sensor_service_version": f"{sensor.requested}-{release.removeprefix('sensor_')}"}
        for release in FAULTS
    }
    found["sensor_never_ready"] = {"sensor_service_sources": [*lab_sources(), {"type": "tasmota", "options": SILENT}]}
    found["sensor_errors"] = {"sensor_service_sources": [_failing(source) for source in lab_sources()]}
    found["vmagent_good"] = {"vmagent_version": f"{vmagent.requested}-good"}
    return {release: {"artifacts_dir": str(store.root), **variables} for release, variables in found.items()}


def lab_sources() -> list[dict[str, Any]]:
    """What the lab's robots sample."""
    sources: list[dict[str, Any]] = yaml.safe_load((ROOT / "group_vars/lab.yml").read_text())["sensor_service_sources"]
    return sources


def _failing(source: Mapping[str, Any]) -> dict[str, Any]:
    return {**source, "options": {"fail_every": 2}} if source["type"] == "simulated" else {**source}
