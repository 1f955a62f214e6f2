"""What the modules of a service document alike; module_utils/roverwatch/service/deployment.py has the types."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  store:
    description: The artifact store on the controller; without it the variable C(artifacts_dir), or C(artifacts/).
    type: path
  role:
    description: >-
      The role whose variables say what the task does not. Of V(vmagent), C(vmagent_memory_max) is O(memory_max), and
      so on for the version, the engine, instances, the port, who is let in, limits and secrets.
    type: str
  description:
    description: What C(systemctl status) says of the service.
    type: str
  job:
    description: The label C(job) of the service's metrics.
    type: str
  metrics_keep:
    description: >-
      A regular expression over the names of the service's metrics (RE2, the whole name). What does not match is dropped
      at the scrape.
    type: str
    default: .*
  sample_limit:
    description: >-
      How many samples a scrape may have after that. One with more is dropped as a whole, and counts as a service that
      does not answer.
    type: int
    default: 2000
  series_limit:
    description: >-
      How many different series a target may have in 24 hours. New ones beyond that are dropped; those that are known go
      on.
    type: int
    default: 4000
"""
