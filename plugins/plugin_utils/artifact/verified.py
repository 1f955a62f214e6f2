"""Files of the artifact store that were found to be whole, once for a run and not for each machine that gets them."""

from __future__ import annotations

import fcntl
from pathlib import Path

from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Entry, Store


def once(store: Store, entry: Entry, record: Path) -> None:
    """As `store.verify`, unless the record has it already. The record is a file that lasts as long as the run.

    Whoever asks meanwhile waits for the answer. The kernel changes a file's ctime with whatever changes the file, so
    one that is damaged during the run is seen.
    """
    with record.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        fingerprint = _fingerprint(store.path(entry), entry.sha256)
        if fingerprint not in stream.read().splitlines():
            store.verify(entry)
            stream.write(fingerprint + "\n")


def _fingerprint(path: Path, sha256: str) -> str:
    if not path.is_file():
        return ""  # is never written down: there is nothing to verify
    found = path.stat()
    return f"{sha256} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
