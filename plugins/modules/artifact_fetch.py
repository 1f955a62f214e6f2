#!/usr/bin/python
"""Have the binaries of a bundle in the controller's artifact store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact_fetch
short_description: Have the binaries of a release in the artifact store
description:
  - Runs on the controller. Looks whether the store has every artifact of a bundle, whole, in the version that
    is asked for. What is missing or damaged is fetched, verified, unpacked and added to the store's manifest.
  - Asks no network when nothing is missing.
  - A release that does not match the checksum its publisher gives is an error, never a reason to use Debian's
    package instead. So is a version that upstream does not have.
options:
  store:
    description: The folder of the store. It is made when it is not there.
    type: path
    required: true
  bundle:
    description: What is released together, as in C(artifacts_binaries) of C(group_vars/all/artifacts.yml).
    type: dict
    required: true
    suboptions:
      bundle:
        description: The bundle's name, for messages.
        type: str
        required: true
      version:
        description: The version to have.
        type: str
        required: true
      optional:
        description: No service needs it. Where its source cannot be reached, that is a warning.
        type: bool
        default: false
      upstream:
        description:
          - Archives of the release. V({version}) and V({goarch}) are filled in, in every text.
          - Left out where upstream publishes no checksums. Then Debian's package is taken, whatever O(source) says.
        type: list
        elements: dict
        suboptions:
          url:
            description: Where the archive is.
            type: str
            required: true
          checksums:
            description: Where the output of C(sha256sum) that covers the archive is.
            type: str
            required: true
          files:
            description: The path of each artifact inside the archive, by the artifact's name.
            type: dict
            required: true
      debian:
        description: The package that stands in where upstream cannot be reached, or the only source.
        type: dict
        suboptions:
          suite:
            description: The Debian suite that has the package.
            type: str
            required: true
          package:
            description: The package's name.
            type: str
            required: true
          minimum_version:
            description: The oldest upstream version that may stand in.
            type: str
            required: true
          files:
            description: The path of each artifact inside the package, by the artifact's name.
            type: dict
            required: true
  arch:
    description: The machines' architecture, as C(ansible_facts.architecture) has it.
    type: str
    choices: [x86_64, aarch64]
    required: true
  source:
    description:
      - V(auto) takes upstream's release, and Debian's package where upstream cannot be reached. Either one
        in the store will do.
      - V(upstream) and V(debian) take that source only, and replace what came from the other one.
    type: str
    choices: [auto, upstream, debian]
    default: auto
  timeout:
    description:
      - Seconds that upstream may stay silent. The first answer must be complete within twice that time, name
        lookup included.
    type: float
    default: 5.0
attributes:
  check_mode:
    support: full
    description: Says what would be fetched, and asks no network.
"""

EXAMPLES = r"""
- name: Have node_exporter for a Raspberry Pi
  artifact_fetch:
    store: artifacts
    arch: aarch64
    bundle:
      bundle: node_exporter
      version: 1.11.1
      upstream:
        - url: https://example.org/v{version}/node_exporter-{version}.linux-{goarch}.tar.gz
          checksums: https://example.org/v{version}/sha256sums.txt
          files:
            node_exporter: node_exporter-{version}.linux-{goarch}/node_exporter
"""

RETURN = r"""
entries:
  description: The manifest's entries of the bundle's artifacts, as far as they are in the store.
  type: list
  elements: dict
  returned: success
source_used:
  description:
    - Where the artifacts came from, V(store) when all were there, V(none) when there are none. In check mode what is
      allowed.
  type: str
  sample: debian
  returned: success
msg:
  description: What was found or done, in one line.
  type: str
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.sources import (
    Bundle,
    Order,
    SourceError,
    UnreachableSource,
    fill,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.store import Store, StoreError

FILES = {"type": "dict", "required": True}
TEXT = {"type": "str", "required": True}
ARGUMENTS = {
    "store": {"type": "path", "required": True},
    "arch": {"type": "str", "choices": ["x86_64", "aarch64"], "required": True},
    "source": {"type": "str", "choices": ["auto", "upstream", "debian"], "default": "auto"},
    "timeout": {"type": "float", "default": 5.0},
    "bundle": {
        "type": "dict",
        "required": True,
        "options": {
            "bundle": TEXT,
            "version": TEXT,
            "optional": {"type": "bool", "default": False},
            "upstream": {
                "type": "list",
                "elements": "dict",
                "options": {"url": TEXT, "checksums": TEXT, "files": FILES},
            },
            "debian": {
                "type": "dict",
                "options": {"suite": TEXT, "package": TEXT, "minimum_version": TEXT, "files": FILES},
            },
        },
    },
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given = module.params
    try:
        order = Order(Bundle.from_dict(given["bundle"]), given["arch"], given["source"], given["timeout"])
        filled = fill(Store(Path(given["store"])), order, dry_run=module.check_mode)
    except (SourceError, StoreError) as error:
        if not (given["bundle"]["optional"] and isinstance(error, UnreachableSource)):
            module.fail_json(msg=str(error))
        text = f"{order}: not there, and no service needs it: {error}"
        module.warn(text)
        module.exit_json(changed=False, entries=[], source_used="none", msg=text)
    for text in filled.damaged:
        module.warn(f"{text}. It is fetched again now")
    module.exit_json(
        changed=filled.source_used != "store",
        entries=[entry.to_dict() for entry in filled.entries],
        source_used=filled.source_used,
        msg=filled.message,
    )


if __name__ == "__main__":
    main()
