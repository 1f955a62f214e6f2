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
from typing import Any, Dict, List, Mapping, Optional, Sequence
from urllib.parse import urlsplit

from ..artifact import engine
from ..query import probe
from ..system import cgroup, disk, sockets, systemd, units
from . import secret_files

PROPERTIES = [
    "ActiveState",
    "SubState",
    "MainPID",
    "UnitFileState",
    "NeedDaemonReload",
    "Result",
    "NRestarts",
    "ControlGroup",
    "ExecMainStartTimestampMonotonic",
]
# A service that is not coming up is restarted by systemd meanwhile; more often than this means that it will not.
RESTARTS_TOLERATED = 2
# A process that is as old as this is proven by one answer. A younger one answers this often; one that systemd has
# started again gets that old first, since what ends every few seconds answers in between.
STEADY_SECONDS = 15.0
ANSWERS = 3
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
        self.before = self.state()
        active = self.before["ActiveState"] in ("active", "activating", "reloading")
        self.restart = active and not self._runs(units.revision(unit, configs))

    @property
    def starts(self) -> bool:
        """Whether its process is one that this run has started."""
        return self.restart or self.before["ActiveState"] != "active"

    @property
    def changed(self) -> bool:
        return (
            bool(self.due or self.secrets_due or self.replaced)
            or self.starts
            or self.before["UnitFileState"] != "enabled"
        )

    def diff(self) -> List[Dict[str, str]]:
        """The files that change, in the form of Ansible's `--diff`; of secrets their names alone."""
        shown = [self._file_diff(file) for file in self.due]
        if self.secrets_due:
            shown.append({"prepared": "secrets that change: {}\n".format(", ".join(self.secrets_due))})
        return shown

    def _file_diff(self, file: units.File) -> Dict[str, str]:
        before = (units.current(file) or {"content": ""})["content"]
        if before == file.content:
            return {"prepared": "{}: its owner or mode, or those of the directories above it\n".format(file.path)}
        name = str(file.path)
        return {"before_header": name, "after_header": name, "before": before, "after": file.content}

    def validate(self) -> None:
        """Have the program that will read a file accept it, under the name that it will have. Raises Refused."""
        for file in self.due:
            if file.path.suffix == ".service":
                self._accepts(["systemd-analyze", "verify", "--man=no", "{}"], file)
            elif file.validate:
                self._accepts(list(file.validate), file)

    def apply(self, mended: bool) -> Dict[str, Any]:
        """Write what differs, start or restart what does not run it, and prove that it does. Raises Refused.

        `mended`: what it runs was just put in place. What it did before that is not counted against it.
        """
        if self.secrets and self.secrets_due:
            self.secrets.write(self.generation)
        for file in self.due:
            disk.place(file.path, file.content, file.mode)
        if self.due or self.before["NeedDaemonReload"] == "yes":
            _systemctl("daemon-reload", journal_of=self.name)
        if self.before["UnitFileState"] != "enabled":
            units.clear_enablement(self.name)
            _systemctl("enable", self.name, journal_of=self.name)
        anew = self.starts or mended
        if anew and self.before["NRestarts"] != "0":
            # systemd counts on through a restart that meets the unit between two starts.
            _systemctl("reset-failed", self.name, journal_of=self.name)
        if self.restart:
            _systemctl("restart", self.name, journal_of=self.name)
        elif self.starts:
            _systemctl("start", self.name, journal_of=self.name)
        proof = self._prove(0 if anew else int(self.before["NRestarts"]))
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
            raise Refused("there is no user {} to own the secrets: the role base makes it".format(user)) from None

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

    def state(self) -> Dict[str, str]:
        """What systemd says of the unit now."""
        return systemd.show(self.name, PROPERTIES)

    def cgroup(self, state: Mapping[str, str]) -> Optional[Path]:
        """The cgroup of what does the service's work: a container's own, beside that of its supervisor."""
        if not state["ControlGroup"]:
            return None
        own = cgroup.find_controller().directory(state["ControlGroup"])
        if self.service["kind"] == "binary":
            return own
        cid_file = Path(self.service["cid_file"])
        return cgroup.container_scope(own.parent, cid_file.read_text().strip()) if cid_file.exists() else None

    def process(self, state: Mapping[str, str]) -> Optional[int]:
        """The process that does the service's work; None between two starts."""
        if self.service["kind"] == "binary":
            return int(state["MainPID"]) or None
        scope = self.cgroup(state)
        return units.first_process(scope) if scope else None

    def other_program(self, process: Optional[int]) -> str:
        """Which program a process runs, if it is not the one that was asked for; of a container, its image is asked."""
        if process is None:
            return "no process"
        if self.service["kind"] == "container":
            return ""
        try:
            found = str(Path("/proc/{}/exe".format(process)).readlink())
        except OSError:
            return "a process that ended just now"
        return "" if found == self.service["exe"] else found

    def _runs(self, revision: str) -> bool:
        """Whether the running process was started with this revision, from the file that is there now."""
        process = self.process(self.before)
        if self.other_program(process):
            return False
        try:
            environ = Path("/proc/{}/environ".format(process)).read_bytes()
        except OSError:
            return False  # it ended just now
        if units.lacks_device(environ, self.service.get("devices", [])):
            return False
        return units.running_revision(environ) == revision

    def _installed(self) -> bool:
        """Whether what the unit starts is on the machine."""
        if self.service["kind"] == "binary":
            return Path(self.service["exe"]).exists()
        return engine.image_id(self.service["engine"], self.service["image"]) is not None

    def _prove(self, restarts_before: int) -> Dict[str, Any]:
        """Wait until the service's own process is ready, and stays so; assert that it runs what was asked for."""
        proof = _Proof(self)

        def alive() -> bool:
            state = self.state()
            restarted = int(state["NRestarts"]) - restarts_before
            # One that ends is started again, unless somebody stops it.
            return state["ActiveState"] not in ("inactive", "failed") and restarted <= RESTARTS_TOLERATED

        ready = probe.wait_ready(self.service["ready_url"], self.ready_timeout, alive, proof.doubt)
        if not ready.ready:
            state = self.state()
            raise Refused(
                "{} is {}/{} ({}, started again by systemd {} times) and not ready: {}\n{}".format(
                    self.name,
                    state["ActiveState"],
                    state["SubState"],
                    state["Result"],
                    state["NRestarts"],
                    ready.reason,
                    journal(self.name),
                )
            )
        if self.service["kind"] == "container":
            self._assert_image()
        return {"main_pid": proof.main_pid, "ready_seconds": round(ready.seconds, 2), "restarted": self.restart}

    def _assert_image(self) -> None:
        cid = Path(self.service["cid_file"]).read_text().strip()
        inspected = _run([self.service["engine"], "inspect", "--format", "{{.Image}}", cid])
        if inspected.returncode != 0:
            raise Refused(
                "the container {} cannot be inspected: {}. systemctl restart {} makes it anew".format(
                    cid, inspected.stderr.strip(), self.name
                )
            )
        wanted, found = self.service["image_id"], "sha256:" + inspected.stdout.strip().removeprefix("sha256:")
        if found != wanted:
            raise Refused(
                "{0} answers, but runs {1} instead of {2}: systemctl restart {0}, then run this again".format(
                    self.name, found, wanted
                )
            )


class _Proof:
    """Whether answers are those of a unit's own process, which is there to stay."""

    def __init__(self, unit: CappedUnit) -> None:
        self.unit = unit
        self.port = urlsplit(unit.service["ready_url"]).port or 80
        self.main_pid = 0
        self.process: Optional[int] = None
        self.answers = 0

    def doubt(self) -> str:
        """Why the answer that was just given proves nothing; empty if it does."""
        state = self.unit.state()
        process, own = self.unit.process(state), self.unit.cgroup(state)
        stranger = sockets.stranger(self.port, own)
        if stranger:
            return "port {} is answered by {}, and not by {}: stop that, or choose another <role>_port".format(
                self.port, stranger, self.unit.name
            )
        if process is None or process != self.process:
            self.process, self.answers = process, 0
        program = self.unit.other_program(process)
        if program:
            return "it runs {} instead of {}".format(program, self.unit.service["exe"])
        self.main_pid = int(state["MainPID"])
        self.answers += 1
        age = systemd.age(state)
        if age >= STEADY_SECONDS:
            return ""
        if state["NRestarts"] != "0":
            return "systemd has started it again {} times, {:.0f} s ago the last time".format(state["NRestarts"], age)
        return "" if self.answers >= ANSWERS else "its process has just started"


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
