#!/usr/bin/python
"""Documentation of the action plugin `artifact_fetch`, which does the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact_fetch
short_description: Have the binaries of releases in the artifact store
description:
  - Runs on the controller. Looks whether the store has every artifact of each bundle, whole, in the version that
    is asked for. What is missing or damaged is fetched, verified, unpacked and added to the store's manifest.
  - Asks no network when everything is there as pinned. Where Debian's package stands in for upstream's release,
    upstream is asked again, and the stand-in stays where it cannot be reached.
  - All bundles are fetched beside each other. What takes long says how far it is, on standard error.
  - Proxies and certificate authorities are those of the environment (E(HTTPS_PROXY), E(NO_PROXY), E(SSL_CERT_FILE))
    and of the system. Logins are those of E(NETRC), else C(~/.netrc), and those in URLs. A login goes to the host of
    its URL alone, and is in no message.
  - A release that does not match the checksum its publisher gives is an error, never a reason to use Debian's
    package instead. So is a version that upstream does not have, a login that it does not accept, a certificate of an
    unknown authority, and too many requests.
options:
  store:
    description: The folder of the store. It is made when it is not there.
    type: path
    required: true
  bundles:
    description: What is released together, as in C(artifacts_binaries) of C(group_vars/all/artifacts.yml).
    type: list
    elements: dict
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
      source:
        description: V(auto), V(upstream) or V(debian), for this bundle in place of O(source).
        type: str
      repository:
        description: Where C(make outdated) looks for newer versions. Not asked here.
        type: str
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
  architectures:
    description: The machines' architectures, as C(ansible_facts.architecture) has them.
    type: list
    elements: str
    choices: [x86_64, aarch64]
    required: true
  source:
    description:
      - V(auto) takes upstream's release, and Debian's package where upstream cannot be reached. What Debian stands in
        for is replaced as soon as upstream can be reached.
      - V(upstream) and V(debian) take that source only, and replace what came from the other one.
    type: str
    choices: [auto, upstream, debian]
    default: auto
  timeout:
    description:
      - Seconds that upstream may stay silent at first. The first answer must be complete within twice that time, name
        lookup included.
    type: float
    default: 5.0
attributes:
  check_mode:
    support: full
    description: Says what would be fetched, and asks no network.
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Have node_exporter for a Raspberry Pi
  roverwatch.fleet.artifact_fetch:
    store: artifacts
    architectures: [aarch64]
    bundles:
      - bundle: node_exporter
        version: 1.11.1
        upstream:
          - url: https://example.org/v{version}/node_exporter-{version}.linux-{goarch}.tar.gz
            checksums: https://example.org/v{version}/sha256sums.txt
            files:
              node_exporter: node_exporter-{version}.linux-{goarch}/node_exporter
"""

RETURN = r"""
results:
  description: One for each bundle and architecture.
  type: list
  elements: dict
  returned: success
  contains:
    entries:
      description: The manifest's entries of the bundle's artifacts, as far as they are in the store.
      type: list
      elements: dict
    source_used:
      description:
        - Where the artifacts came from, V(store) when all were there or nothing better could be had, V(none) when there
          are none. In check mode what is allowed.
      type: str
      sample: debian
    not_as_pinned:
      description: What is there in place of the pinned version, and why. Empty if nothing is.
      type: str
      sample: victoriametrics 1.150.0 x86_64 (1.145.0+ds1-2 stands in, because its source is debian)
    changed:
      description: Whether anything was fetched.
      type: bool
    msg:
      description: What was found or done, in one line.
      type: str
msg:
  description: What was found or done, one line for each bundle and architecture; in a failure those that failed.
  type: str
  returned: always
"""
