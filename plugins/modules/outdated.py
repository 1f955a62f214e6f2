#!/usr/bin/python
"""Documentation of the action plugin `outdated`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: outdated
short_description: Say which pins are not the newest of their line, and write the locks
description:
  - Asks about every pin of the tree beside each other, each with a limited time, and prints a table of what is pinned
    and what is the newest. Below it stands which file and value to change.
  - The line of a bundle is its major version; that of a base image its first two numbers and its suffix, such as
    C(3.13.*-alpine3.22); that of an action its name alone.
  - Asks with C(git ls-remote), C(skopeo) and C(uv), as this machine has them set up for proxies, authorities, logins.
  - Fails if something could not be asked about, and names it; all else is told even so.
  - Runs on the controller and needs no connection to any host.
options:
  root:
    description: The tree. Paths are told relative to it.
    type: path
    required: true
  bundles:
    description:
      - C(artifacts_binaries) of C(group_vars/all/artifacts.yml). Of one with C(upstream), C(repository) is where its
        releases are tagged, for git.
    type: list
    elements: dict
    required: true
  contexts:
    description: Folders with a Dockerfile, whose base image is pinned by its first ARG.
    type: list
    elements: path
    required: true
  digests:
    description: C(artifacts_base_digests), the digest that each base image is locked to.
    type: dict
    required: true
  digests_file:
    description: The file that holds O(digests).
    type: path
    required: true
  locks:
    description: Files of requirements. The lock of each is beside it, C(.txt) instead of C(.in).
    type: list
    elements: path
    required: true
  workflows:
    description: Files with workflows of GitHub's form, whose C(uses) are pinned.
    type: list
    elements: path
    required: true
  write:
    description:
      - Write the locks anew, those of Python and O(digests_file), and ask about nothing else. The lock of a tag that
        a Dockerfile does not name any more goes.
      - A lock that could not be asked about stays as it is; that of the images as a whole.
    type: bool
    required: true
attributes:
  check_mode:
    support: full
    description: Says what would be written.
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Ask about every pin
  roverwatch.fleet.outdated:
    root: "{{ playbook_dir | dirname }}"
    bundles: "{{ artifacts_binaries }}"
    contexts: "{{ artifacts_images | map(attribute='context') }}"
    digests: "{{ artifacts_base_digests }}"
    digests_file: group_vars/all/images.lock.yml
    locks: [requirements.in]
    workflows: [.github/workflows/test.yml]
    write: false
"""

RETURN = r"""
msg:
  description: The counts, in one line.
  type: str
  returned: always
  sample: 2 of 14 pins are not the newest of their line
"""
