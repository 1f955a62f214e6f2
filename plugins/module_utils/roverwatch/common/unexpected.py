"""The last thing that a module can say: an error that none of its own is.

Every module ends with it. Otherwise an operator would see Python's text alone, and not where it is from.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import syslog
import traceback
from pathlib import Path
from typing import Callable

LOG = "roverwatch-module"
REMEDIES = {
    errno.ENOSPC: "its disk is full: df -h and df -i there, make room, and run this again",
    errno.EDQUOT: "its quota is used up: make room, and run this again",
    errno.EROFS: "its file system is read-only: mount it writable, dmesg says whether the kernel has closed it",
    errno.EACCES: "it may not be used, not even by root: a mount option, an attribute (lsattr) or a security module",
    errno.EPERM: "it may not be changed, not even by root: an attribute (lsattr) or a security module",
    errno.EIO: "its disk does not work: dmesg has the kernel's words",
}


def told(main: Callable[[], None]) -> None:
    """Run a module; an exception that it does not know becomes a failure with host, module, cause and where to look."""
    try:
        main()
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
        text = describe(main, error)
        trace = traceback.format_exc()
        syslog.openlog(LOG)
        for line in [text, *trace.splitlines()]:
            syslog.syslog(syslog.LOG_ERR, line)
        print("\n" + json.dumps({"failed": True, "msg": text, "exception": trace}))
        sys.exit(1)


def describe(main: Callable[[], None], error: Exception) -> str:
    """One line about it. What a disk does not let is told with its path; the rest is an error of ours."""
    host, module = socket.gethostname(), Path(main.__code__.co_filename).stem
    log = "journalctl -t {} on {} has all of it, as has -vvv".format(LOG, host)
    if isinstance(error, OSError) and error.errno in REMEDIES:
        where = "{}: {}".format(error.filename or "a file that it does not name", error.strerror)
        return "{}: {} cannot go on: {}; {}. {}".format(host, module, where, REMEDIES[error.errno], log)
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = "{}: {}, in {} line {}".format(type(error).__name__, error, Path(last.filename).name, last.lineno)
    return "{}: {} met an error that it does not know: {}. If it stays, report it: {}".format(host, module, what, log)
