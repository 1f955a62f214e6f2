#!/usr/bin/python
"""One service: its files, its unit, and the proof that it runs what they say."""

from __future__ import annotations

DOCUMENTATION = r"""
module: capped_unit
short_description: Make a systemd service run exactly what its unit and files say
description:
  - Validates a service's configuration files and unit, puts them in place together, starts the service or restarts
    it if the running process was started with other ones, waits until it is ready, and asserts that what runs is
    the version that was asked for. Where one file is invalid, none is changed.
  - Whether a restart is due is not a matter of what this run changed. The unit puts a revision (C(@revision@) in
    O(unit) is replaced with it) into the process's environment, where the kernel keeps it. So a run that was cut
    off half-way is finished by the next one, and a process that runs what it should is never restarted.
options:
  name:
    description: The unit's name without C(.service).
    type: str
    required: true
  state:
    description: V(absent) stops the service and removes its unit and files.
    type: str
    choices: [present, absent]
    default: present
  unit:
    description: The unit file. It sets C(Environment=ROVERWATCH_REVISION=@revision@) for the service's main process.
    type: str
  files:
    description: The service's configuration files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file goes.
        type: path
        required: true
      content:
        description: What is in it.
        type: str
        required: true
      mode:
        description: Its permissions, in octal.
        type: str
        default: "0644"
      validate:
        description: A command that must accept the file before it lands; C({}) in it is the staged file's path.
        type: list
        elements: str
        default: []
  secrets:
    description:
      - What only the service's user may read, as text by file name. O(secrets_dir) holds exactly these, with mode 0400.
      - No log, diff or result has them, and they are in no hash that others can read.
    type: dict
  secrets_dir:
    description: The directory of O(secrets), which nothing else uses.
    type: path
  secrets_owner:
    description: The user, by name or id, that may read O(secrets).
    type: str
    default: root
  service:
    description: >-
      What health checks need to know: C(kind), C(version), C(memory_max) (bytes), C(ready_url), and C(exe) of a binary
      or C(engine), C(image), C(image_id) and C(cid_file) of a container. Kept in C(/etc/roverwatch/services.d).
    type: dict
  scrape:
    description: How the service's metrics are scraped. Kept as a scrape config in C(/etc/roverwatch/scrape.d).
    type: dict
    default: {}
    suboptions:
      target:
        description: Where the metrics are, as C(host:port).
        type: str
        required: true
      job:
        description: The label C(job) of every series.
        type: str
        required: true
      keep:
        description: Names of metrics that do not match this regular expression are dropped.
        type: str
        default: .*
      sample_limit:
        description: A scrape with more samples than this is refused as a whole.
        type: int
        required: true
      series_limit:
        description: Series beyond so many in 24 hours are dropped.
        type: int
        required: true
  replaces:
    description: Patterns of files of an earlier layout, which are removed once the service is proven to run.
    type: list
    elements: str
    default: []
  ready_timeout:
    description: Seconds that the service may take until its C(ready_url) answers 2xx.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Run vmagent
  capped_unit:
    name: roverwatch-vmagent
    unit: "{{ lookup('ansible.builtin.template', 'unit.j2') }}"
    files:
      - path: /etc/roverwatch/vmagent/scrape.yml
        content: "{{ lookup('ansible.builtin.template', 'scrape.yml.j2') }}"
        validate: [/opt/roverwatch/vmagent/1.150.0/vmagent, -dryRun, "-promscrape.config={}"]
    service:
      kind: binary
      version: 1.150.0
      exe: /opt/roverwatch/vmagent/1.150.0/vmagent
      memory_max: 50331648
      ready_url: http://127.0.0.1:8429/health
    scrape:
      target: 127.0.0.1:8429
      job: vmagent
      keep: vmagent_.+|process_start_time_seconds
      sample_limit: 1000
      series_limit: 2000
"""

RETURN = r"""
restarted:
  description: Whether a running process was replaced.
  type: bool
  returned: state is present
main_pid:
  description: The main process of the unit.
  type: int
  returned: state is present, not in check mode
ready_seconds:
  description: How long the service took to be ready.
  type: float
  returned: state is present, not in check mode
"""

import os
import pwd
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch import (
    cgroup,
    probe,
    secret_files,
    systemd,
    units,
)

PROPERTIES = ["ActiveState", "SubState", "MainPID", "UnitFileState", "NeedDaemonReload", "Result"]
# A service that is not coming up is restarted by systemd meanwhile; more often than this means that it will not.
RESTARTS_TOLERATED = 3
# No file has this owner.
NOBODY_YET = -1


class Refused(Exception):
    """The service cannot be made to run what was asked for; the text says why and where to look."""


class CappedUnit:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name = module.params["name"]
        self.service = module.params["service"]

    def systemctl(self, *args: str) -> None:
        rc, _, err = self.module.run_command(["systemctl", *args])
        if rc != 0:
            raise Refused("systemctl {}: {}\n{}".format(" ".join(args), err.strip(), self.journal()))

    def journal(self) -> str:
        return "\n".join(["Last lines of its journal:", *systemd.journal_tail(self.name, 15)])

    def state(self) -> dict[str, str]:
        return systemd.show(self.name, PROPERTIES)

    # present

    def present(self) -> dict[str, Any]:
        unit = self.module.params["unit"]
        configs = [
            units.File(Path(f["path"]), f["content"], int(f["mode"], 8), f["validate"])
            for f in self.module.params["files"]
        ]
        secrets = self.secrets()
        secrets_due = secrets.differing() if secrets else []
        generation = secrets.generation() if secrets else ""
        if generation:
            # A part of the unit, and so of the revision: whatever process has older secrets is restarted.
            unit = "{}\n# Generation of the secrets: {}\n".format(unit.rstrip("\n"), generation)
        self.assert_pattern(self.module.params["scrape"].get("keep", ""))
        files = units.layout(self.name, unit, configs, self.service, self.module.params["scrape"])
        due = units.differing(files)
        for file in due:
            self.validate(file)

        before = self.state()
        active = before["ActiveState"] in ("active", "activating", "reloading")
        restart = active and not self.runs(units.revision(unit, configs), int(before["MainPID"]))
        diff = [self.diff(file) for file in due]
        if secrets_due:
            diff.append({"prepared": "secrets that change: {}\n".format(", ".join(secrets_due))})
        replaced = [path for pattern in self.module.params["replaces"] for path in Path("/").glob(pattern.lstrip("/"))]
        result = {
            "changed": bool(due or secrets_due or replaced)
            or restart
            or before["ActiveState"] != "active"
            or before["UnitFileState"] != "enabled",
            "restarted": restart,
            "diff": diff,
        }
        if self.module.check_mode:
            return result

        if secrets and secrets_due:
            secrets.write(generation)
        for file in due:
            self.write(file)
        if due or before["NeedDaemonReload"] == "yes":
            self.systemctl("daemon-reload")
        if before["UnitFileState"] != "enabled":
            self.systemctl("enable", self.name)
        if restart:
            self.systemctl("restart", self.name)
        elif before["ActiveState"] != "active":
            self.systemctl("start", self.name)
        proof = self.prove()
        for path in replaced:
            path.unlink()
        return {**result, **proof}

    def assert_pattern(self, keep: str) -> None:
        """Whatever scrapes the service leaves it out if it cannot read this, and goes on."""
        try:
            re.compile(keep)
        except re.error as error:
            raise Refused(
                "nothing was changed: <role>_metrics_keep is no regular expression: {}: {}".format(error, keep)
            ) from error

    def secrets(self) -> secret_files.SecretFiles | None:
        params = self.module.params
        if params["secrets_dir"] is None:
            return None
        owner = self.user_id(params["secrets_owner"])
        found = secret_files.SecretFiles(Path(params["secrets_dir"]), owner, params["secrets"] or {})
        problems = found.problems()
        if problems:
            raise Refused("nothing was changed:\n{}".format("\n".join(problems)))
        return found

    def user_id(self, user: str) -> int:
        if user.isdigit():
            return int(user)
        try:
            return pwd.getpwnam(user).pw_uid
        except KeyError:
            if self.module.check_mode:
                return NOBODY_YET  # the role `base` makes the user, which check mode does not
            raise Refused("there is no user {} to own the secrets".format(user)) from None

    def validate(self, file: units.File) -> None:
        """Have the program that will read a file accept it, under the name that it will have."""
        if file.path.suffix == ".service":
            command = ["systemd-analyze", "verify", "--man=no", "{}"]
        elif file.validate:
            command = list(file.validate)
        else:
            return
        if self.module.check_mode and not self.installed():
            return  # the program comes with the artifact, which check mode does not bring
        with tempfile.TemporaryDirectory(prefix="roverwatch-") as folder:
            Path(folder).chmod(0o755)
            staged = Path(folder) / file.path.name
            staged.write_text(file.content, encoding="utf-8")
            staged.chmod(0o644)
            rc, out, err = self.module.run_command([part.replace("{}", str(staged)) for part in command])
        if rc != 0:
            raise Refused(
                "{} is invalid, and nothing was changed. {} says:\n{}".format(
                    file.path, command[0], (out + err).strip()
                )
            )

    def write(self, file: units.File) -> None:
        file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        arriving = file.path.with_name("." + file.path.name + ".new")
        with arriving.open("w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), file.mode)  # before there is anything to read in it
            stream.write(file.content)
            stream.flush()
            os.fsync(stream.fileno())
        arriving.replace(file.path)

    def diff(self, file: units.File) -> dict[str, Any]:
        there = units.current(file) or {"content": "", "mode": None}
        return {
            "before_header": str(file.path),
            "after_header": str(file.path),
            "before": there["content"],
            "after": file.content,
        }

    # what runs

    def process(self, main_pid: int) -> int | None:
        """The process that does the service's work: a container's own, not its supervisor."""
        if self.service["kind"] == "binary":
            return main_pid or None
        cid_file = Path(self.service["cid_file"])
        if not cid_file.exists():
            return None
        roverwatch_slice = systemd.show(units.SLICE, ["ControlGroup"])["ControlGroup"]
        scope = cgroup.container_scope(
            cgroup.find_controller().directory(roverwatch_slice), cid_file.read_text().strip()
        )
        return units.first_process(scope) if scope else None

    def runs(self, revision: str, main_pid: int) -> bool:
        """Whether the running process was started with this revision, from the file that is there now."""
        proc = Path("/proc/{}".format(self.process(main_pid)))
        try:
            if self.service["kind"] == "binary" and str((proc / "exe").readlink()) != self.service["exe"]:
                return False
            return units.running_revision((proc / "environ").read_bytes()) == revision
        except OSError:
            return False  # it ended just now

    def installed(self) -> bool:
        """Whether what the unit starts is on the machine."""
        if self.service["kind"] == "binary":
            return Path(self.service["exe"]).exists()
        engine = self.service["engine"]
        inspect = [engine, "image", "inspect", self.service["image"]]
        return shutil.which(engine) is not None and self.module.run_command(inspect)[0] == 0

    def prove(self) -> dict[str, Any]:
        """Wait until the service is ready; assert that what runs is what was asked for."""
        restarts: set[str] = set()

        def alive() -> bool:
            state = self.state()
            restarts.add(state["MainPID"])
            return state["ActiveState"] in ("active", "activating") and len(restarts) <= RESTARTS_TOLERATED

        ready = probe.wait_ready(self.service["ready_url"], self.module.params["ready_timeout"], alive)
        state = self.state()
        if not ready.ready:
            raise Refused(
                "{} is {} ({}) and not ready: {}\n{}".format(
                    self.name, state["ActiveState"], state["Result"], ready.reason, self.journal()
                )
            )
        main_pid = int(state["MainPID"])
        self.assert_version(main_pid)
        return {"main_pid": main_pid, "ready_seconds": round(ready.seconds, 2)}

    def assert_version(self, main_pid: int) -> None:
        if self.service["kind"] == "binary":
            wanted, found = self.service["exe"], str(Path("/proc/{}/exe".format(main_pid)).readlink())
        else:
            cid = Path(self.service["cid_file"]).read_text().strip()
            inspect = [self.service["engine"], "inspect", "--format", "{{.Image}}", cid]
            image = self.module.run_command(inspect, check_rc=True)[1].strip()
            wanted, found = self.service["image_id"], "sha256:" + image.removeprefix("sha256:")
        if found != wanted:
            raise Refused("{} answers, but runs {} instead of {}".format(self.name, found, wanted))

    # absent

    def absent(self) -> dict[str, Any]:
        paths = [units.unit_path(self.name), units.service_path(self.name), units.scrape_path(self.name)]
        paths += [Path(file["path"]) for file in self.module.params["files"]]
        there = [path for path in paths if path.exists()]
        secrets_dir = self.module.params["secrets_dir"]
        has_secrets = secrets_dir is not None and Path(secrets_dir).exists()
        known = units.unit_path(self.name).exists() or self.state()["ActiveState"] != "inactive"
        if not self.module.check_mode:
            if known:
                self.systemctl("disable", "--now", self.name)
            for path in there:
                path.unlink()
            if has_secrets:
                shutil.rmtree(secrets_dir)
            if known:
                self.systemctl("daemon-reload")
                self.module.run_command(["systemctl", "reset-failed", self.name])
        return {"changed": bool(there) or has_secrets or known}


def main() -> None:
    file_spec = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "validate": {"type": "list", "elements": "str", "default": []},
    }
    scrape_spec = {
        "target": {"type": "str", "required": True},
        "job": {"type": "str", "required": True},
        "keep": {"type": "str", "default": ".*"},
        "sample_limit": {"type": "int", "required": True},
        "series_limit": {"type": "int", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "unit": {"type": "str"},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file_spec},
            "secrets": {"type": "dict", "no_log": True},
            # Ansible takes these two for secrets by their names.
            "secrets_dir": {"type": "path", "no_log": False},
            "secrets_owner": {"type": "str", "default": "root", "no_log": False},
            "service": {"type": "dict"},
            "scrape": {"type": "dict", "default": {}, "options": scrape_spec},
            "replaces": {"type": "list", "elements": "str", "default": []},
            "ready_timeout": {"type": "int", "default": 30},
        },
        required_if=[("state", "present", ("unit", "service"))],
        required_by={"secrets": ("secrets_dir",)},
        supports_check_mode=True,
    )
    unit = CappedUnit(module)
    try:
        module.exit_json(**(unit.present() if module.params["state"] == "present" else unit.absent()))
    except (Refused, systemd.SystemdError) as error:
        module.fail_json(msg="{}: {}".format(unit.name, error))


if __name__ == "__main__":
    main()
