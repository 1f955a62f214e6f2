#!/usr/bin/python
"""Check one machine of the fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_health
short_description: Every health check of one machine in one call
description:
  - Checks each service that was deployed to this machine; its unit, its readiness, the program or image that
    really runs, its memory against the cap that the kernel enforces, and its OOM kills.
  - A service is ready if it answers from a socket of its own; another program on its port is a problem.
  - Checks that the file systems that the services write to have room.
  - Checks that the slice of all services has the memory budget as its limit and that the caps fit under it.
  - On a robot, offers each hub that vmagent writes to an empty write, with the credential and the certificate
    authorities that vmagent has, and looks at what waits for the hub in vmagent's queue.
  - Asks the machine's own history whether a limit against labels that explode was reached.
  - On a hub, asks VictoriaMetrics for the age of each robot's newest sample and vmalert for what fires, and looks how
    long the certificate of the gateway is good for.
  - What an operator must act on comes back in RV(problems). The module fails only where it cannot check.
options:
  host:
    description: Name of this machine in the inventory, for the remedies.
    type: str
    required: true
  expected_units:
    description: Units that must be deployed here, without C(.service).
    type: list
    elements: str
    default: []
  slice:
    description: The slice that all services run in.
    type: str
    default: roverwatch.slice
  memory_budget:
    description: Bytes that the kernel must enforce as the limit of O(slice). Without it, any limit will do.
    type: int
  hub_query_url:
    description: Base URL of VictoriaMetrics, on hubs only, for example C(http://127.0.0.1:8428).
    type: str
  ready_timeout_seconds:
    description: Time for a service to answer. All are asked at once, so this bounds the whole call.
    type: float
    default: 2
  hub_timeout_seconds:
    description: Time for a hub to answer a robot. All are asked at once, beside everything else.
    type: float
    default: 5
  oom_window_seconds:
    description: An OOM kill is a problem for this long.
    type: float
    default: 900
  restart_window_seconds:
    description:
      - A service that ended and that systemd started again more than O(restarts_allowed) times in this time is a
        problem, whether it runs at this moment or not. The restarts that a deployment asks for do not count.
    type: float
    default: 600
  restarts_allowed:
    description: How often a service may be started again in O(restart_window_seconds).
    type: int
    default: 2
  hubs_may_be_silent:
    description: >-
      A hub that nobody answers at, as in a dead zone, or that has trouble itself (an HTTP error other than 401) is no
      problem of this machine. A refused credential or certificate is one as ever.
    type: bool
    default: false
  holes_period_seconds:
    description: >-
      For how long back the samples of each minute are counted, so that M(roverwatch.fleet.health_report) finds what a
      hub lacks of a
      robot; 0 for not at all.
    type: float
    default: 0
attributes:
  check_mode:
    description: Runs the same in check mode, as it changes nothing.
    support: full
author:
  - Roverwatch (@roverwatch)
"""

EXAMPLES = r"""
- name: Check this robot
  roverwatch.fleet.fleet_health:
    host: "{{ inventory_hostname }}"
    expected_units: [roverwatch-vmagent, roverwatch-node-exporter]
    memory_budget: "{{ memory_budget | roverwatch.fleet.to_bytes }}"
  register: __health

- name: Nothing to act on
  ansible.builtin.assert:
    that: __health.problems | length == 0
"""

RETURN = r"""
services:
  description: The deployed services, one after another.
  returned: success
  type: list
  elements: dict
  sample:
    - unit: roverwatch-vmagent
      kind: binary
      version: 1.145.0
      state: active
      sub_state: running
      restarts: 0
      uptime_seconds: 86400.1
      ready: true
      ready_ms: 1.9
      ready_reason: "HTTP 200: OK"
      cap_bytes: 50331648
      memory:
        path: /sys/fs/cgroup/roverwatch.slice/roverwatch-vmagent.service
        version: 2
        usage_bytes: 31457280
        working_set_bytes: 27262976
        peak_bytes: 35651584
        limit_bytes: 50331648
        oom_kills: 0
        inode: 4711
      supervisor_usage_bytes: null
      oom_kills_total: 0
      oom_seconds_since_last: null
      certificate_days_left: null
      running: /opt/roverwatch/vmagent/1.145.0/vmagent
      running_as_recorded: true
slice:
  description: Memory of the slice, the sum of the caps in it, and the budget.
  returned: success
  type: dict
hub:
  description: The hub's view of each robot, or C(error).
  returned: when O(hub_query_url) is given
  type: dict
  contains:
    newest_sample_age_seconds:
      description: Per robot, the age of its newest sample in the last day.
      type: dict
      returned: when the hub answers
    targets_up:
      description: Per robot, its scrape targets that are up.
      type: dict
      returned: when the hub answers
hubs:
  description: >-
    The hubs that a robot writes to, as it sees them. C(kind) is V(ok), V(credential) (refused), V(status) (any other
    HTTP status), V(configuration) (files of the robot), V(authority), V(hostname), V(expired), V(not_yet_valid) or
    V(tls) (the certificate), or V(name), V(refused), V(timeout) or V(network) where nobody answers, as in a dead zone.
    C(reachable) is whether the gateway answered over a connection that was verified, C(accepted) whether it took the
    credential, too.
  returned: on robots that have hubs
  type: list
  elements: dict
  sample:
    - name: hub-1
      url: https://hub-1:8427
      reachable: true
      accepted: true
      kind: ok
      reason: HTTP 204
      pending_bytes: 0
      blocks_refused: 0
      blocks_overflowed: 0
alerts:
  description: What fires on a hub, with C(name), C(severity), C(robot), C(summary) and C(action) each, or C(error).
  returned: on hubs
  type: dict
minutes:
  description: How many results of scrapes the machine has of each robot and minute, or C(error).
  returned: when O(holes_period_seconds) is given
  type: dict
problems:
  description: What an operator must act on; empty on a healthy machine.
  returned: success
  type: list
  elements: dict
  contains:
    host:
      description: The machine's name in the inventory.
      type: str
      returned: always
    service:
      description: The unit or slice concerned, or C(hub).
      type: str
      returned: always
    what:
      description: What is wrong.
      type: str
      returned: always
    remedy:
      description: What to do about it, as a command where one helps.
      type: str
      returned: always
uptime_seconds:
  description: Time since the machine booted.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import unexpected
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health import examination
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.health.options import Options
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service import records
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup, systemd


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "expected_units": {"type": "list", "elements": "str", "default": []},
            "slice": {"type": "str", "default": "roverwatch.slice"},
            "memory_budget": {"type": "int"},
            "hub_query_url": {"type": "str"},
            "ready_timeout_seconds": {"type": "float", "default": 2.0},
            "hub_timeout_seconds": {"type": "float", "default": 5.0},
            "oom_window_seconds": {"type": "float", "default": 900.0},
            "restart_window_seconds": {"type": "float", "default": 600.0},
            "restarts_allowed": {"type": "int", "default": 2},
            "hubs_may_be_silent": {"type": "bool", "default": False},
            "holes_period_seconds": {"type": "float", "default": 0.0},
        },
        supports_check_mode=True,
    )
    options = Options(
        host=module.params["host"],
        expected_units=module.params["expected_units"],
        slice_unit=module.params["slice"],
        memory_budget=module.params["memory_budget"],
        hub_query_url=module.params["hub_query_url"],
        ready_timeout_seconds=module.params["ready_timeout_seconds"],
        hub_timeout_seconds=module.params["hub_timeout_seconds"],
        oom_window_seconds=module.params["oom_window_seconds"],
        restart_window_seconds=module.params["restart_window_seconds"],
        restarts_allowed=module.params["restarts_allowed"],
        hubs_may_be_silent=module.params["hubs_may_be_silent"],
        holes_period_seconds=module.params["holes_period_seconds"],
    )
    try:
        result = examination.examine(options)
    except (records.RecordError, cgroup.CgroupError, systemd.SystemdError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    unexpected.told(main)
