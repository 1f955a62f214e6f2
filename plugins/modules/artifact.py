#!/usr/bin/python
"""The robot's half of `artifact`: looks, verifies, stages and switches. The action plugin brings the file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Put a verified artifact of the store onto a machine
description:
  - Looks an artifact up in the controller's store for the machine's architecture, and brings it there if the
    machine does not have it yet. The machine itself compares the sha256 of what arrived with the manifest before
    anything is put in place.
  - A binary lands beside those of other versions, in C(/opt/roverwatch/<name>/<version>/<name>); nothing that runs
    is touched. An image is loaded into the container engine under its own tag.
options:
  name:
    description: The artifact's name in the store.
    type: str
    required: true
  version:
    description:
      - The version asked for, as it is pinned. Where a package of the distribution stands in for it, the result's
        RV(version) says which version that really is.
    type: str
    required: true
  store:
    description: The artifact store on the controller, filled by C(playbooks/artifacts.yml).
    type: path
    required: true
  engine:
    description: The container engine that an image is loaded into. Needed for images only.
    type: str
    choices: [podman, docker]
  state:
    description: V(absent) removes every version of the artifact from the machine.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Put vmagent onto the machine
  artifact:
    name: vmagent
    version: 1.150.0
    store: "{{ artifacts_dir }}"
  register: vmagent_artifact
"""

RETURN = r"""
version:
  description: The version that the artifact really is.
  type: str
  returned: state is present
path:
  description: Where a binary is on the machine.
  type: str
  returned: for a binary
reference:
  description: The image's name and tag in the engine.
  type: str
  returned: for an image
image_id:
  description: The image's identifier, the digest of its configuration.
  type: str
  returned: for an image
"""

import gzip
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.store import sha256_file

ROOT = Path("/opt/roverwatch")
IMAGE_PREFIX = "localhost/roverwatch/"


def binary_path(entry: dict[str, str]) -> Path:
    return ROOT / entry["name"] / entry["version"] / entry["name"]


def image_id(engine: str, reference: str) -> str | None:
    """The identifier of an image in the engine, or None where the image or the engine is not there."""
    if not shutil.which(engine):
        return None
    inspect = [engine, "image", "inspect", reference]
    done = subprocess.run(inspect, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    found: str = json.loads(done.stdout)[0]["Id"]
    return "sha256:" + found.removeprefix("sha256:")


def installed(entry: dict[str, str], engine: str | None) -> bool:
    if entry["kind"] == "image" and engine:
        return image_id(engine, entry["reference"]) == entry["image_id"]
    path = binary_path(entry)
    return path.is_file() and sha256_file(path) == entry["sha256"]


def install_binary(entry: dict[str, str], staged: Path) -> None:
    target = binary_path(entry)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    arriving = target.with_name(target.name + ".new")
    with staged.open("rb") as source, arriving.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
        os.fsync(sink.fileno())
    arriving.chmod(0o755)
    arriving.replace(target)


def load_image(module: AnsibleModule, entry: dict[str, str], engine: str, staged: Path) -> None:
    # Unpacked here: podman 4.3 on Debian 12 does not know a compressed archive from a broken one. It lies beside the
    # staged file, in the directory that Ansible removes.
    archive = staged.with_name("image.tar")
    with gzip.open(staged) as packed, archive.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
    module.run_command([engine, "load", "--input", str(archive)], check_rc=True)
    found = image_id(engine, entry["reference"])
    if found != entry["image_id"]:
        module.fail_json(
            msg="{} loaded {} as {}, but the manifest says {}".format(
                engine, entry["reference"], found, entry["image_id"]
            )
        )


def remove(module: AnsibleModule, name: str, engine: str | None) -> bool:
    changed = False
    if (ROOT / name).exists():
        changed = True
        if not module.check_mode:
            shutil.rmtree(ROOT / name)
    if engine and shutil.which(engine):
        listed = [
            engine,
            "image",
            "ls",
            "--quiet",
            "--no-trunc",
            "--filter",
            "reference=" + IMAGE_PREFIX + name,
        ]
        images = sorted(set(module.run_command(listed, check_rc=True)[1].split()))
        if images:
            changed = True
            if not module.check_mode:
                module.run_command([engine, "image", "rm", "--force", *images], check_rc=True)
    return changed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "engine": {"type": "str", "choices": ["podman", "docker"]},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            # From the action plugin: the manifest's entries by architecture, and the file once it was brought.
            "candidates": {"type": "dict"},
            "staged": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["state"] == "absent":
        module.exit_json(changed=remove(module, params["name"], params["engine"]))

    arch = platform.machine()
    entry = params["candidates"].get(arch)
    if entry is None:
        module.exit_json(changed=False, arch=arch, known=False)
    result = {"changed": True, "arch": arch, "known": True, "version": entry["version"]}
    if entry["kind"] == "image":
        result.update(reference=entry["reference"], image_id=entry["image_id"])
    else:
        result.update(path=str(binary_path(entry)))

    if params["staged"]:
        staged = Path(params["staged"])
        found = sha256_file(staged)
        if found != entry["sha256"]:
            module.fail_json(
                msg="{} arrived with sha256 {}, but the manifest says {}. Nothing was changed; run this again.".format(
                    entry["file"], found, entry["sha256"]
                )
            )
        if entry["kind"] == "image":
            load_image(module, entry, params["engine"], staged)
        else:
            install_binary(entry, staged)
    elif installed(entry, params["engine"]):
        result["changed"] = False
    module.exit_json(**result)


if __name__ == "__main__":
    main()
