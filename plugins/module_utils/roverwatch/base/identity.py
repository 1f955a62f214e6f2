"""Which machine this is: told from all others while it runs, whatever address or name it is reached by."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MACHINE_ID = Path("/etc/machine-id")
# The space of processes: machines that are containers on one kernel share its boot.
PROCESSES = Path("/proc/self/ns/pid")


def running() -> Dict[str, str]:
    """`system` is this system since it was started, and no other one; `machine_id` is its disk's, which a copy of the
    disk has as well.
    """
    return {
        "system": "{} {}".format(BOOT_ID.read_text().strip(), PROCESSES.readlink()),
        "machine_id": MACHINE_ID.read_text().strip() if MACHINE_ID.exists() else "",
    }
