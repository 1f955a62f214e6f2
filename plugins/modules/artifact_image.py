#!/usr/bin/python
"""Have an image in the controller's artifact store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact_image
short_description: Have an image in the artifact store
description:
  - Runs on the controller. Builds an image from a folder with a Dockerfile, when the store has none that was
    built from the same files, lock and base image. Needs no network and no container engine when it has.
  - The build itself has no network. The Python packages of C(requirements.txt) are fetched on the controller,
    as wheels for the Python and the C library of the base image, and only with the hashes of that file.
  - The base image is the default of the Dockerfile's first C(ARG). It is pulled by its digest unless the local engine
    has it. Where no registry answers, a base of Debian packages is made and kept in the local engine.
  - The built image is saved to the store and removed from the local engine.
options:
  store:
    description: The folder of the store. It is made when it is not there.
    type: path
    required: true
  name:
    description: The image's name in the store, and in its reference C(localhost/roverwatch/<name>).
    type: str
    required: true
  version:
    description:
      - The version of what is in the image. The image's own version is this one and the first 8 digits of the
        sha256 over its inputs.
    type: str
    required: true
  arch:
    description: The machines' architecture, as C(ansible_facts.architecture) has it.
    type: str
    choices: [x86_64, aarch64]
    required: true
  context:
    description:
      - The folder with C(Dockerfile) and C(requirements.txt). What the Dockerfile copies goes into the build,
        with a folder C(wheels) that is added.
    type: path
    required: true
  extras:
    description:
      - Optional dependencies to have in the image. The lock of each, C(requirements-<extra>.txt) in the context, is
        appended to C(requirements.txt).
    type: list
    elements: str
    default: []
  fallback:
    description: The base to make where no registry can be reached.
    type: dict
    suboptions:
      suite:
        description: The Debian suite.
        type: str
        required: true
      packages:
        description: The packages to unpack, with what they depend on.
        type: list
        elements: str
        required: true
  source:
    description:
      - V(auto) takes the Dockerfile's base, and the fallback where no registry answers. What was built on the
        fallback is built again as soon as the Dockerfile's base can be had.
      - V(upstream) takes no fallback, V(debian) nothing else.
    type: str
    choices: [auto, upstream, debian]
    default: auto
  digests:
    description:
      - The digest of each base image, by its tag.
      - It is C(artifacts_base_digests) of C(group_vars/all/images.lock.yml).
    type: dict
    required: true
  pip:
    description: The command that runs pip.
    type: list
    elements: str
    required: true
  pip_lock:
    description: A requirements file that pins pip, with its hashes; the image installs its wheels with it.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Says whether an image would be built, and builds none.
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Have the sensor service's image
  roverwatch.fleet.artifact_image:
    store: artifacts
    name: sensor
    version: 0.1.0
    arch: x86_64
    context: app
    extras: [mqtt]
    digests: "{{ artifacts_base_digests }}"
    fallback: {suite: trixie, packages: [python3, dash, coreutils, base-files]}
    pip: [python3, -m, pip]
    pip_lock: requirements.txt
"""

RETURN = r"""
entry:
  description: The image's entry in the manifest; none in check mode when it would be built.
  type: dict
  returned: success
not_as_pinned:
  description: What the image stands on in place of the pinned base, and why; empty where it is as pinned.
  type: str
  returned: always
msg:
  description: What was found or done, in one line, with the base image that was used and why.
  type: str
  returned: always
"""
