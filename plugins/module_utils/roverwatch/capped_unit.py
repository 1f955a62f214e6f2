"""One unit of a service: its files, and the proof that it runs what they say.

Whether a restart is due is not a matter of what this run changed. The unit puts a revision (`units.PLACEHOLDER` in it
is replaced with it) into the process's environment, where the kernel keeps it. So a run that was cut off half-way is
finished by the next one, and a process that runs what it should is never restarted.
"""

from __future__ import annotations

import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

from . import cgroup, disk, engine, probe, secret_files, systemd, units

PROPERTIES = ["ActiveState", "SubState", "MainPID", "UnitFileState", "NeedDaemonReload", "Result"]
# A service that is not coming up is restarted by systemd meanwhile; more often than this means that it will not.
RESTARTS_TOLERATED = 3
# No file has this owner.
NOBODY_YET = -1


class Refused(Exception):
    """The unit cannot be made to run what was asked for; the text says why and where to look."""


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)


def _systemctl(*args: str, journal_of: str) -> None:
    done = _run(["systemctl", *args])
    if done.returncode != 0:
        raise Refused("systemctl {}: {}\n{}".format(" ".join(args), done.stderr.strip(), journal(journal_of)))


def journal(unit: str) -> str:
    """The end of a unit's journal, as a part of an error."""
    return "\n".join(["Last lines of its journal:", *systemd.journal_tail(unit, 15)])


class CappedUnit:
    """A unit that is wanted: `wanted` has what `capped_service` documents of an instance.

    The constructor looks and compares, `validate` asks the programs, `apply` changes the machine.
    """

    def __init__(self, wanted: Mapping[str, Any], check_mode: bool) -> None:
        self.name: str = wanted["name"]
        self.service: Mapping[str, Any] = wanted["service"]
        self.ready_timeout: int = wanted["ready_timeout"]
        self.check_mode = check_mode
        configs = [
            units.File(Path(file["path"]), file["content"], int(file["mode"], 8), file["validate"])
            for file in wanted["files"]
        ]
        self.secrets = self._secrets(wanted)
        self.secrets_due = self.secrets.differing() if self.secrets else []
        self.generation = self.secrets.generation() if self.secrets else ""
        unit: str = wanted["unit"]
        if self.generation:
            # A part of the unit, and so of the revision: whatever process has older secrets is restarted.
            unit = "{}\n# Generation of the secrets: {}\n".format(unit.rstrip("\n"), self.generation)
        self.due = units.differing(units.layout(self.name, unit, configs, self.service, wanted["scrape"]))
        self.replaced = [path for pattern in wanted["replaces"] for path in Path("/").glob(pattern.lstrip("/"))]
        self.before = self._state()
        active = self.before["ActiveState"] in ("active", "activating", "reloading")
        self.restart = active and not self._runs(units.revision(unit, configs), int(self.before["MainPID"]))

    @property
    def changed(self) -> bool:
        return (
            bool(self.due or self.secrets_due or self.replaced)
            or self.restart
            or self.before["ActiveState"] != "active"
            or self.before["UnitFileState"] != "enabled"
        )

    def diff(self) -> List[Dict[str, str]]:
        """The files that change, in the form of Ansible's `--diff`; of secrets their names alone."""
        shown = [
            {
                "before_header": str(file.path),
                "after_header": str(file.path),
                "before": (units.current(file) or {"content": ""})["content"],
                "after": file.content,
            }
            for file in self.due
        ]
        if self.secrets_due:
            shown.append({"prepared": "secrets that change: {}\n".format(", ".join(self.secrets_due))})
        return shown

    def validate(self) -> None:
        """Have the program that will read a file accept it, under the name that it will have. Raises Refused."""
        for file in self.due:
            if file.path.suffix == ".service":
                self._accepts(["systemd-analyze", "verify", "--man=no", "{}"], file)
            elif file.validate:
                self._accepts(list(file.validate), file)

    def apply(self) -> Dict[str, Any]:
        """Write what differs, start or restart what does not run it, and prove that it does. Raises Refused."""
        if self.secrets and self.secrets_due:
            self.secrets.write(self.generation)
        for file in self.due:
            disk.write(file.path, file.content, file.mode)
        if self.due or self.before["NeedDaemonReload"] == "yes":
            _systemctl("daemon-reload", journal_of=self.name)
        if self.before["UnitFileState"] != "enabled":
            units.clear_enablement(self.name)
            _systemctl("enable", self.name, journal_of=self.name)
        if self.restart:
            _systemctl("restart", self.name, journal_of=self.name)
        elif self.before["ActiveState"] != "active":
            _systemctl("start", self.name, journal_of=self.name)
        proof = self._prove()
        for path in self.replaced:
            disk.remove(path)
        return proof

    # what is wanted

    def _secrets(self, wanted: Mapping[str, Any]) -> Optional[secret_files.SecretFiles]:
        if wanted["secrets_dir"] is None:
            return None
        owner = self._user_id(wanted["secrets_owner"])
        found = secret_files.SecretFiles(Path(wanted["secrets_dir"]), owner, wanted["secrets"] or {})
        problems = found.problems()
        if problems:
            raise Refused("nothing was changed:\n{}".format("\n".join(problems)))
        return found

    def _user_id(self, user: str) -> int:
        if user.isdigit():
            return int(user)
        try:
            return pwd.getpwnam(user).pw_uid
        except KeyError:
            if self.check_mode:
                return NOBODY_YET  # the role `base` makes the user, which check mode does not
            raise Refused("there is no user {} to own the secrets".format(user)) from None

    def _accepts(self, command: List[str], file: units.File) -> None:
        if self.check_mode and not (shutil.which(command[0]) and self._installed()):
            return  # the program comes with the artifact, which check mode does not bring
        with tempfile.TemporaryDirectory(prefix="roverwatch-") as folder:
            Path(folder).chmod(0o755)
            staged = Path(folder) / file.path.name
            staged.write_text(file.content, encoding="utf-8")
            staged.chmod(0o644)
            done = _run([part.replace("{}", str(staged)) for part in command])
        if done.returncode != 0:
            raise Refused(
                "{} is invalid, and nothing was changed. {} says:\n{}".format(
                    file.path, command[0], (done.stdout + done.stderr).strip()
                )
            )

    # what runs

    def _state(self) -> Dict[str, str]:
        return systemd.show(self.name, PROPERTIES)

    def _process(self, main_pid: int) -> Optional[int]:
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

    def _runs(self, revision: str, main_pid: int) -> bool:
        """Whether the running process was started with this revision, from the file that is there now."""
        proc = Path("/proc/{}".format(self._process(main_pid)))
        try:
            if self.service["kind"] == "binary" and str((proc / "exe").readlink()) != self.service["exe"]:
                return False
            environ = (proc / "environ").read_bytes()
            if units.lacks_device(environ, self.service.get("devices", [])):
                return False
            return units.running_revision(environ) == revision
        except OSError:
            return False  # it ended just now

    def _installed(self) -> bool:
        """Whether what the unit starts is on the machine."""
        if self.service["kind"] == "binary":
            return Path(self.service["exe"]).exists()
        return engine.image_id(self.service["engine"], self.service["image"]) is not None

    def _prove(self) -> Dict[str, Any]:
        """Wait until the service is ready; assert that what runs is what was asked for."""
        restarts: Set[str] = set()

        def alive() -> bool:
            state = self._state()
            restarts.add(state["MainPID"])
            return state["ActiveState"] in ("active", "activating") and len(restarts) <= RESTARTS_TOLERATED

        ready = probe.wait_ready(self.service["ready_url"], self.ready_timeout, alive)
        state = self._state()
        if not ready.ready:
            raise Refused(
                "{} is {} ({}) and not ready: {}\n{}".format(
                    self.name, state["ActiveState"], state["Result"], ready.reason, journal(self.name)
                )
            )
        main_pid = int(state["MainPID"])
        self._assert_version(main_pid)
        return {"main_pid": main_pid, "ready_seconds": round(ready.seconds, 2), "restarted": self.restart}

    def _assert_version(self, main_pid: int) -> None:
        if self.service["kind"] == "binary":
            wanted, found = self.service["exe"], str(Path("/proc/{}/exe".format(main_pid)).readlink())
        else:
            cid = Path(self.service["cid_file"]).read_text().strip()
            inspected = _run([self.service["engine"], "inspect", "--format", "{{.Image}}", cid])
            if inspected.returncode != 0:
                raise Refused("the container {} cannot be inspected: {}".format(cid, inspected.stderr.strip()))
            wanted, found = self.service["image_id"], "sha256:" + inspected.stdout.strip().removeprefix("sha256:")
        if found != wanted:
            raise Refused("{} answers, but runs {} instead of {}".format(self.name, found, wanted))


class UnwantedUnit:
    """A unit that goes, with its files, and `own`: what else belongs to it alone."""

    def __init__(self, name: str, own: Sequence[Path]) -> None:
        self.name = name
        there = [units.unit_path(name), units.service_path(name), units.scrape_path(name), *own]
        self.there = [path for path in there if path.exists()]
        known = units.unit_path(name).exists()
        self.known = known or systemd.show(name, ["ActiveState"])["ActiveState"] != "inactive"

    @property
    def changed(self) -> bool:
        return bool(self.there) or self.known

    def apply(self) -> None:
        if self.known:
            _systemctl("disable", "--now", self.name, journal_of=self.name)
        for path in self.there:
            disk.remove(path)
        if self.known:
            _systemctl("daemon-reload", journal_of=self.name)
            _run(["systemctl", "reset-failed", self.name])
