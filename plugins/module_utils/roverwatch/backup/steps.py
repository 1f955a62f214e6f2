"""Backups of a hub's VictoriaMetrics, and the way back, on the hub itself.

vmbackup and vmrestore run as transient units of systemd: in the slice, under a cap, in a sandbox, and on by themselves
when the controller goes away. What they say is in a log, from which their progress is read; how they ended is written
down by `backup_end`.
"""

from __future__ import annotations

import inspect
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..common.sizes import from_bytes
from ..query import probe
from ..service import records
from ..service.unit_text import PROTECT_CLOCK, SANDBOX
from ..system import disk, systemd, units
from . import outcome
from .request import LATEST, Plan

SERVICE = records.DATABASE
USER = "roverwatch"
DATA = Path("/var/lib/roverwatch/victoriametrics")
STAGING = DATA.with_name("victoriametrics.restoring")
KEPT = DATA.with_name("victoriametrics.before-restore")
METRICS = Path("/var/lib/roverwatch/textfile/backup.prom")
STATE = Path("/var/lib/roverwatch/backup")
# What vmbackup writes last; without it a backup is not complete.
COMPLETE = "backup_complete.ignore"
# The run's standard input, which it may open by this name as often as it likes.
CREDENTIALS = "/proc/self/fd/0"
# With ten, the default, 114M of 128M were seen to be resident on the way to S3.
CONCURRENCY = 4
# As long as a storage or VictoriaMetrics may take for a short answer.
ANSWER_TIMEOUT_SECONDS = 10
# VictoriaMetrics opens every part of its data before it answers.
READY_TIMEOUT_SECONDS = 300
RESTARTS_TOLERATED = 3
# Of what is restored, for what the hub takes in meanwhile.
DISK_RESERVE = 0.1

_SANDBOX = (
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    *(line for line in (SANDBOX + PROTECT_CLOCK).splitlines() if not line.startswith("#")),
    "UMask=0077",
)


class BackupError(Exception):
    """It cannot be done, or it failed; the text says why, and what to do."""


@dataclass(frozen=True)
class Run:
    """A run of vmbackup (`backup`) or vmrestore (`restore`): its unit, and the files about it."""

    kind: str
    state: Path = STATE
    runtime: Path = Path("/run")

    @property
    def program(self) -> str:
        return "vm" + self.kind

    @property
    def unit(self) -> str:
        return "roverwatch-" + self.kind

    @property
    def folder(self) -> Path:
        """In memory, and gone when the run has ended."""
        return self.runtime / self.unit

    @property
    def log(self) -> Path:
        return self.state / (self.kind + ".log")

    @property
    def result(self) -> Path:
        return self.state / (self.kind + ".json")

    @property
    def place(self) -> Path:
        """Says what the newest run is about."""
        return self.state / (self.kind + ".place")

    @property
    def is_active(self) -> bool:
        return systemd.show(self.unit, ["ActiveState"])["ActiveState"] not in ("inactive", "failed")


BACKUP, RESTORE = Run("backup"), Run("restore")


# --- the hub as it is --------------------------------------------------------------------------------------


def check_budget(plan: Plan, directory: Path = records.DIRECTORY) -> None:
    """See that the run's cap fits beside those of the services, or the kernel would kill one of them for it."""
    budget = systemd.show(units.SLICE, ["MemoryMax"])["MemoryMax"]
    caps = sum(service.memory_max for service in records.read(directory))
    if budget.isdigit() and caps + plan.memory_max > int(budget):
        raise BackupError(
            "the caps of the services add up to {}, and backup_memory_max is {}: more than memory_budget, which is {}. "
            "Lower backup_memory_max, or raise memory_budget and run playbooks/site.yml".format(
                from_bytes(caps), from_bytes(plan.memory_max), from_bytes(int(budget))
            )
        )


def check_alone() -> None:
    """See that no backup and no restore runs."""
    for other in (BACKUP, RESTORE):
        if other.is_active:
            about = other.place.read_text() if other.place.exists() else ""
            raise BackupError(
                "a {} runs on this hub already ({}): wait until it has ended, or end it there with systemctl stop {}. "
                "Its log is {}".format(other.kind, about, other.unit, other.log)
            )


def check_storage(plan: Plan) -> None:
    """See that something answers where a backup goes to or comes from; any status will do, as nobody has logged in."""
    if plan.service_url:
        status, reason = probe.http_get(plan.service_url, ANSWER_TIMEOUT_SECONDS)
        if status == probe.NO_ANSWER:
            raise BackupError(
                "{} cannot be reached from here: {}. Correct backup_destination or backup_endpoint, or let the hub "
                "connect there".format(plan.service_url, reason)
            )


def size_of(directory: Path) -> int:
    """Bytes in all files below, without a database's snapshots, which are links. 0 where there is nothing."""
    total = 0
    for top, folders, files in os.walk(str(directory)):
        if Path(top) == directory and "snapshots" in folders:
            folders.remove("snapshots")
        for name in files:
            try:
                total += os.lstat(os.path.join(top, name)).st_size  # noqa: PTH118  (many files)
            except FileNotFoundError:
                continue  # VictoriaMetrics merged it away just now
    return total


def free_bytes(directory: Path) -> int:
    """What is free on the disk of a directory."""
    found = os.statvfs(str(_existing(directory)))
    return found.f_bavail * found.f_frsize


def _existing(directory: Path) -> Path:
    """The directory, or the one around it that is there already."""
    return next(path for path in (directory, *directory.parents) if path.exists())


@dataclass(frozen=True)
class Contents:
    """What the files of a database say: samples, and the time of the newest in milliseconds (0 if there is none)."""

    samples: int
    newest: int


def contents(directory: Path) -> Contents:
    """Read it from the files of a VictoriaMetrics that need not run."""
    found = [json.loads(path.read_text()) for path in _parts(directory)]
    return Contents(sum(part["RowsCount"] for part in found), max((part["MaxTimestamp"] for part in found), default=0))


def _parts(directory: Path) -> Iterator[Path]:
    for kind in ("small", "big"):
        yield from directory.glob("data/{}/*/*/metadata.json".format(kind))


def history(url: str, directory: Path = DATA) -> str:
    """Whose history a hub has, in words; empty if it has none. Its own series are none: it has them at once."""
    status, body = probe.http_get(url + "/api/v1/label/robot/values?start=0", ANSWER_TIMEOUT_SECONDS)
    if probe.is_ready(status):
        robots = json.loads(body)["data"]
        named = ", ".join(robots[:5]) + (", …" if len(robots) > 5 else "")
        return "that of {} robots ({})".format(len(robots), named) if robots else ""
    return "one of unknown robots, as VictoriaMetrics does not answer" if any(_parts(directory)) else ""


# --- a backup or restore in files of the hub ---------------------------------------------------------------


def may(access: str, path: Path) -> bool:
    """Whether the user of the services may read (`-r`) or write (`-w`) a path, by whatever rules there are."""
    command = ["runuser", "-u", USER, "--", "test", access, str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def check_directory(plan: Plan, make: bool) -> None:
    """See that a backup can be written to a directory; make it, for the user of the services alone, if it is new."""
    top = Path(plan.directory)
    if not top.exists():
        if not top.parent.is_dir():
            raise BackupError(
                "backup_destination is {}, and there is no {} here: make it or mount it, or correct the path".format(
                    plan.destination, top.parent
                )
            )
        if make:
            _make_directory(top, 0o700)
    elif not may("-w", top):
        raise BackupError(
            "backup_destination is {}, where the user {} may not write: chown {} {}, or give another directory".format(
                plan.destination, USER, USER, top
            )
        )
    at_place, at_latest = (size_of(_directory_of(plan, name)) for name in (plan.name, LATEST))
    check_space(size_of(DATA) - max(at_place, at_latest), top, "the backup")


def check_source(plan: Plan) -> int:
    """See that a complete backup is in a directory, and may be read. Its size in bytes."""
    size = check_source_files(plan)
    source = _directory_of(plan, plan.name)
    if not may("-r", source / COMPLETE):
        raise BackupError("the user {0} may not read {1}: chown -R {0} {1}".format(USER, source))
    return size


def check_source_files(plan: Plan) -> int:
    """See that a complete backup is in a directory. Its size in bytes."""
    source = _directory_of(plan, plan.name)
    there = source.parent
    if not source.is_dir():
        points = sorted(path.name for path in there.iterdir() if path.is_dir()) if there.is_dir() else []
        raise BackupError(
            "there is no backup in {}{}. Correct backup_destination, backup_name or restore_hub".format(
                source, " (there are {})".format(", ".join(points)) if points else ""
            )
        )
    if not (source / COMPLETE).exists():
        raise BackupError(
            "the backup in {} is not complete: it was cut off, or is none. Run playbooks/backup.yml once more, or "
            "restore another point with backup_name".format(source)
        )
    return size_of(source)


def check_space(needed: int, directory: Path, what: str) -> None:
    """See that there is room on a disk for so many bytes more."""
    free = free_bytes(directory)
    wanted = int(needed * (1 + DISK_RESERVE))
    if wanted > free:
        raise BackupError(
            "{} needs {} more on the disk of {}, where {} are free (a tenth of it for what the hub takes in "
            "meanwhile). Make room there".format(what, from_bytes(wanted), directory, from_bytes(free))
        )


def is_on_disk_of_data(plan: Plan) -> bool:
    """Whether the backup is lost with the disk of what it is a backup of."""
    return plan.scheme == "fs" and _existing(Path(plan.directory)).stat().st_dev == DATA.stat().st_dev


def _directory_of(plan: Plan, name: str) -> Path:
    return Path(plan.place(name)[len("fs://") :])


def _make_directory(path: Path, mode: int) -> None:
    """Have a directory of the services' user."""
    user = pwd.getpwnam(USER)
    disk.make_directory(path, mode, user.pw_uid, user.pw_gid)


# --- a run -------------------------------------------------------------------------------------------------


def arguments(run: Run, plan: Plan, url: str, credentials: str, data: Path = DATA) -> list[str]:
    """What vmbackup or vmrestore is started with. `credentials` is the path of their file, or empty."""
    if run.kind == "backup":
        args = ["-storageDataPath={}".format(data), "-dst=" + plan.place()]
        args += ["-snapshot.createURL={}/snapshot/create".format(url)]
        args += ["-snapshot.deleteURL={}/snapshot/delete".format(url)]
        if plan.name != LATEST:
            args.append("-origin=" + plan.place(LATEST))
    else:
        args = ["-src=" + plan.place(), "-storageDataPath={}".format(data)]
    args.append("-concurrency={}".format(CONCURRENCY))
    # Their metrics are asked by nobody: a port that is free, and no fixed one.
    args.append("-httpListenAddr=127.0.0.1:0")
    if plan.endpoint:
        args.append("-customS3Endpoint=" + plan.endpoint)
    if plan.rate_max:
        args.append("-maxBytesPerSecond={}".format(plan.rate_max))
    if credentials and plan.scheme != "azblob":
        args.append("-credsFilePath=" + credentials)
    return args


def properties(run: Run, plan: Plan, writable: Sequence[Path], ending: str, with_credentials: bool) -> list[str]:
    """The unit that it runs in. `ending` is the command line for when it has ended."""
    found = [
        "User=" + USER,
        "Group=" + USER,
        "MemoryAccounting=yes",
        "MemoryMax={}".format(plan.memory_max),
        "MemorySwapMax=0",
        "TasksMax=256",
        # Go collects its garbage earlier as its heap comes near to the cap.
        "Environment=GOMEMLIMIT={}".format(plan.memory_max * 3 // 4),
        "Nice=10",
        "StandardOutput=append:{}".format(run.log),
        "StandardError=append:{}".format(run.log),
        # Both finish what they have begun when they are told to stop, however long it takes; killing does no harm.
        "TimeoutStopSec=10",
        # `+`: outside the sandbox, which could not write there.
        "ExecStopPost=+" + ending,
        "ReadWritePaths=" + " ".join(map(str, writable)),
    ]
    if plan.scheme == "fs":
        found += ["IPAddressDeny=any", "IPAddressAllow=localhost"]
    if with_credentials:
        # azblob reads its environment, the others a file. systemd opens both as root, in a directory of root's alone,
        # where no other service of the same user gets to; and once more for ExecStopPost, which removes them.
        kind = "EnvironmentFile=" if plan.scheme == "azblob" else "StandardInput=file:"
        found.append("{}{}".format(kind, run.folder / "credentials"))
    return [*found, *_SANDBOX]


def ending(run: Run, url: str, written: str) -> str:
    """The command line that writes down how the run ended. `written` is the directory that it writes to, if there is
    one here.
    """
    task = {
        "folder": str(run.folder),
        "log": str(run.log),
        "result": str(run.result),
        "metrics": str(METRICS) if run is BACKUP else "",
        "url": url if run is BACKUP else "",
        "written": written,
    }
    quoted = json.dumps(task, separators=(",", ":"))
    return "{} {} '{}'".format(sys.executable, run.folder / "end.py", quoted)


def start(run: Run, plan: Plan, program: str, url: str, credentials: str) -> None:
    """Start it, and come back once it runs."""
    disk.make_directory(run.state, 0o700)
    disk.remove(run.result)
    disk.make_directory(run.folder, 0o700)
    try:
        disk.write(run.folder / "end.py", inspect.getsource(outcome))
        disk.write(run.folder / "disk.py", inspect.getsource(disk))
        disk.write(run.log, "", 0o600)
        disk.write(run.place, plan.place(), 0o600)
        if credentials:
            disk.write(run.folder / "credentials", credentials, 0o400, pwd.getpwnam(USER).pw_uid)
        if run.kind == "backup":
            writable, data = [Path(plan.directory)] if plan.scheme == "fs" else [], DATA
        else:
            writable, data = [STAGING], STAGING
        command = ["systemd-run", "--quiet", "--collect", "--unit=" + run.unit, "--slice=" + units.SLICE]
        command += ["--service-type=exec", "--description=Roverwatch: {} of VictoriaMetrics".format(run.kind)]
        end = ending(run, url, str(writable[0]) if writable else "")
        given = properties(run, plan, writable, end, bool(credentials))
        command += ["--property=" + each for each in given]
        command += [program, *arguments(run, plan, url, CREDENTIALS if credentials else "", data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BackupError("systemd cannot start {}: {}".format(run.unit, done.stderr.strip()))
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise


def poll(run: Run) -> dict[str, Any]:
    """How a run is: `active`, `progress` of it so far, and the `result` of one that has ended."""
    active = run.is_active
    log = run.log.read_text(errors="replace")
    result = json.loads(run.result.read_text()) if not active and run.result.exists() else None
    if not active:
        shutil.rmtree(run.folder, ignore_errors=True)  # where a power cut let nobody else do it
    return {"active": active, "progress": outcome.progress(log), "result": result}


def judge(run: Run, plan: Plan, result: dict[str, Any] | None) -> dict[str, Any]:
    """The figures of a run that went well. Raises BackupError that says what happened to any other."""
    if result is None:
        raise BackupError(
            "{} was cut off, as by a restart of the hub: run the playbook once more, and it goes on from what is there "
            "already".format(run.unit)
        )
    if result["result"] == "success" and "bytes" in result:
        return result
    # Version 1 of cgroups does not let systemd see who killed it.
    if result["result"] == "oom-kill" or result["status"] in ("KILL", "9"):
        raise BackupError(
            "{} was killed, as the kernel does at its cap of {}. Raise backup_memory_max if nobody else did it; what "
            "is there already is not sent again".format(run.program, from_bytes(plan.memory_max))
        )
    if "cannot find " + COMPLETE in result["error"]:
        raise BackupError(
            "there is no complete backup in {}: it was cut off, or there is none. Correct backup_destination, "
            "backup_name or restore_hub, or run playbooks/backup.yml once more".format(plan.place())
        )
    said = result["error"] or "nothing; see {}".format(run.log)
    raise BackupError(
        "{} ended with {} ({}) and said: {}. Correct backup_destination, backup_name{} or backup_secrets".format(
            run.program, result["result"], result["status"], said, "" if run.kind == "backup" else ", restore_hub"
        )
    )


def clear_snapshot(run: Run, url: str) -> None:
    """Delete the snapshot of an earlier run that a power cut ended: it would keep its disk for good."""
    left = outcome.snapshot_left(run.log.read_text(errors="replace")) if run.log.exists() else ""
    if left:
        outcome.delete_snapshot(url, left)


# --- the way back ------------------------------------------------------------------------------------------


def check_directories() -> None:
    """See that directories can change places here, and that nothing is in their way."""
    if DATA.is_mount():
        raise BackupError(
            "{0} is a file system of its own, and cannot be put aside. Mount it at {1} instead, or restore by hand: "
            "stop {2}, run vmrestore with -storageDataPath={0}, start it".format(DATA, DATA.parent, SERVICE)
        )
    # Without the other one, a restore was cut off between the two renames: go on with it.
    if KEPT.exists() and DATA.exists():
        raise BackupError(
            "{0} is there, the history from before an earlier restore. Remove it (rm -rf {0}) if it is not needed, or "
            "go back to it: {1}".format(KEPT, way_back())
        )


def way_back() -> str:
    """Commands for the hub that undo a restore."""
    return "systemctl stop {0} && mv {1} {1}.restored && mv {2} {1} && systemctl start {0}".format(SERVICE, DATA, KEPT)


def make_staging(plan: Plan, run: Run = RESTORE) -> None:
    """The directory that is restored into. What an interrupted run of the same backup brought there stays."""
    if STAGING.exists() and (not run.place.exists() or run.place.read_text() != plan.place()):
        disk.remove(STAGING)
    _make_directory(STAGING, 0o750)


def swap(url: str) -> dict[str, Any]:
    """Have VictoriaMetrics run on what was restored. The old data stays beside it, and comes back if it cannot."""
    check_directories()
    if not STAGING.exists():
        raise BackupError(
            "{} is gone: another run of the playbook has put it in place, or was told to. Run it again if the hub has "
            "not the history that it should have".format(STAGING)
        )
    found = contents(STAGING)
    if not found.samples:
        raise BackupError(
            "{} holds no samples of VictoriaMetrics, and nothing was replaced. Correct backup_destination, backup_name "
            "or restore_hub".format(STAGING)
        )
    kept = DATA.exists()
    _systemctl("stop")
    if kept:
        disk.rename(DATA, KEPT)
    disk.rename(STAGING, DATA)
    try:
        seconds = _start(url)
    except BackupError as error:
        _systemctl("stop")
        disk.rename(DATA, STAGING)
        if kept:
            disk.rename(KEPT, DATA)
        _systemctl("start")
        raise BackupError(
            "VictoriaMetrics does not start on what was restored, and has its old data again: {0}. What was restored "
            "is in {1}. Restore another point; to fetch the same one anew, rm -rf {1} first".format(error, STAGING)
        ) from error
    _, body = probe.http_get(url + "/api/v1/series/count", ANSWER_TIMEOUT_SECONDS)
    return {
        "series": json.loads(body)["data"][0],
        "samples": found.samples,
        "newest": utc(found.newest / 1000),
        "ready_seconds": round(seconds, 1),
        "kept": str(KEPT) if KEPT.exists() else "",
    }


def utc(seconds: float) -> str:
    """A time as ISO 8601 has it, such as 2026-11-21T11:24:39Z."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat().replace("+00:00", "Z")


def _start(url: str) -> float:
    _systemctl("start")
    pids: set[str] = set()

    def alive() -> bool:
        state = systemd.show(SERVICE, ["ActiveState", "MainPID"])
        pids.add(state["MainPID"])
        return state["ActiveState"] in ("active", "activating") and len(pids) <= RESTARTS_TOLERATED

    ready = probe.wait_ready(url + "/health", READY_TIMEOUT_SECONDS, alive)
    if not ready.ready:
        journal = systemd.journal_tail(SERVICE, 200)
        said = [line[:300] for line in journal if re.search(r": panic: |\sfatal\s", line)] or journal
        raise BackupError("{}; its journal: {}".format(ready.reason, " | ".join(said[-1:])))
    return ready.seconds


def _systemctl(verb: str) -> None:
    done = subprocess.run(["systemctl", verb, SERVICE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BackupError("systemctl {} {}: {}".format(verb, SERVICE, done.stderr.strip()))
