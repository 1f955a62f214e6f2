"""What a run of vmbackup or vmrestore came to, read from its log; and what is left to do when it has ended.

systemd starts a copy of this file as `ExecStopPost`, also when the controller has gone away meanwhile. So it imports
nothing of the collection but `disk`, of which a copy lies beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

try:
    from ..system import disk
except ImportError:  # the copy
    import disk  # type: ignore[import-not-found,no-redef]

_FIGURES = (
    re.compile(
        r"backed up (?P<bytes>\d+) bytes in (?P<seconds>[\d.]+) seconds; server-side deleted \d+ bytes; "
        r"server-side copied (?P<copied_bytes>\d+) bytes; uploaded (?P<sent_bytes>\d+) bytes"
    ),
    re.compile(
        r"restored (?P<bytes>\d+) bytes from backup in (?P<seconds>[\d.]+) seconds; deleted \d+ bytes; "
        r"downloaded (?P<sent_bytes>\d+) bytes"
    ),
)
_PROGRESS = re.compile(
    r"(?:up|down)loaded (?P<done>\S+) out of (?P<total>\S+) bytes \(.*estimated time to completion: (?P<left>\S+)"
)
_SNAPSHOT = re.compile(r"Snapshot (\S+) (created|deleted)")
_ERROR = re.compile(r"\t(?:fatal|panic|error)\t\S+\t(.*)")
_SIZE = re.compile(r"([\d.]+)([kKMGT]?)i?")
_FACTOR = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# VictoriaMetrics deletes a snapshot in milliseconds; one that is stuck is tried again by the next backup.
DELETE_TIMEOUT_SECONDS = 10


def figures(log: str) -> dict[str, float]:
    """Bytes and seconds of a run that is complete; empty for any other."""
    for pattern in _FIGURES:
        found = pattern.search(log)
        if found:
            return {key: float(text) if key == "seconds" else int(text) for key, text in found.groupdict().items()}
    return {}


def progress(log: str) -> dict[str, Any] | None:
    """How far a run is, in bytes, and the text of its own estimate. It says so every ten seconds."""
    found = list(_PROGRESS.finditer(log))
    if not found:
        return None
    last = found[-1]
    left = re.sub(r"\.\d+", "", last["left"])
    return {"done": _bytes(last["done"]), "total": _bytes(last["total"]), "left": left}


def error(log: str) -> str:
    """The last error in a log, without the time and the line of the source; empty if there is none."""
    found = _ERROR.findall(log)
    return found[-1] if found else ""


def snapshot_left(log: str) -> str:
    """The snapshot that the run made and, since it was killed, did not delete; empty if there is none."""
    left = ""
    for name, what in _SNAPSHOT.findall(log):
        left = name if what == "created" else ""
    return left


def delete_snapshot(url: str, name: str) -> None:
    """Have VictoriaMetrics at `url` delete it. What is gone already is no error."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = "{}/snapshot/delete?snapshot={}".format(url, urllib.parse.quote(name))
    with contextlib.suppress(urllib.error.HTTPError), opener.open(address, timeout=DELETE_TIMEOUT_SECONDS):
        pass


def metrics(when: float, size: float) -> str:
    """What node_exporter says of the newest backup."""
    return (
        "# HELP roverwatch_backup_last_success_timestamp_seconds When the newest backup of this hub was complete.\n"
        "# TYPE roverwatch_backup_last_success_timestamp_seconds gauge\n"
        "roverwatch_backup_last_success_timestamp_seconds {:.0f}\n"
        "# HELP roverwatch_backup_size_bytes Size of the newest backup of this hub.\n"
        "# TYPE roverwatch_backup_size_bytes gauge\n"
        "roverwatch_backup_size_bytes {:.0f}\n"
    ).format(when, size)


def finish(task: dict[str, str], outcome: dict[str, str], now: float) -> None:
    """Write down how a run ended. `task` has paths and, for a backup, `metrics` and `url`; `outcome` is systemd's.

    What the run wrote, in `written` if that is a directory here, is on the disk before anything says that it is there.
    """
    # Nothing of it is needed any more, and the credentials must not stay.
    shutil.rmtree(task["folder"], ignore_errors=True)
    log = Path(task["log"]).read_text(errors="replace")
    done = figures(log)
    success = outcome["result"] == "success"
    if success and task["written"]:
        disk.sync(Path(task["written"]))
    if success and done and task["metrics"]:
        disk.write(Path(task["metrics"]), metrics(now, done["bytes"]))
    disk.write(Path(task["result"]), json.dumps({**outcome, **done, "error": error(log), "finished": now}), 0o600)
    left = snapshot_left(log)
    if left and task["url"]:
        delete_snapshot(task["url"], left)


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text)
    return int(float(found[1]) * _FACTOR[found[2].replace("K", "k")]) if found else 0


if __name__ == "__main__":
    finish(
        json.loads(sys.argv[1]),
        {"result": os.environ["SERVICE_RESULT"], "status": os.environ.get("EXIT_STATUS", "")},
        time.time(),
    )
