"""What a unit of Roverwatch is made of on the disk, and which revision of it a process runs."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import disk, systemd

CONFIG = Path("/etc/roverwatch")
UNITS = Path("/etc/systemd/system")
SLICE = "roverwatch.slice"

# The variable that carries the revision into the process: what a process was started with can be read from the
# kernel, so that an interrupted run is seen by the next one, and nothing is restarted that runs what it should.
REVISION = "ROVERWATCH_REVISION"
PLACEHOLDER = "@revision@"
# The devices that a container was started with, of those that its service may have.
DEVICES = "ROVERWATCH_DEVICES"
# Where engines look for what a device such as nvidia.com/gpu=all stands for.
CDI = ("/etc/cdi", "/var/run/cdi")


@dataclass(frozen=True)
class File:
    """A file that belongs to a unit. `validate` is a command line, `{}` in it the path of the staged file."""

    path: Path
    content: str
    mode: int = 0o644
    validate: Sequence[str] = ()


def revision(unit: str, configs: Sequence[File]) -> str:
    """Sixteen hex digits over all that the process reads when it starts."""
    digest = hashlib.sha256(unit.encode())
    for file in configs:
        digest.update("{}\0{}\0".format(file.path, file.content).encode())
    return digest.hexdigest()[:16]


def unit_path(name: str) -> Path:
    return UNITS / (name + ".service")


def instances(name: str) -> List[str]:
    """The units of a service that are there: `name` itself, and those of further instances, `<name>-2` and so on."""
    pattern = re.compile(re.escape(name) + r"(-\d+)?\.service")
    found = [path for path in sorted(UNITS.glob(name + "*.service")) if pattern.fullmatch(path.name)]
    return [path.stem for path in found if is_ours(path)]


def is_ours(path: Path) -> bool:
    """Whether we made a service's unit. What is no file, or was emptied by a power cut, is nobody else's."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return REVISION in text or not text


def service_path(name: str) -> Path:
    """What health checks read of a unit."""
    return CONFIG / "services.d" / (name + ".json")


def scrape_path(name: str) -> Path:
    """What is scraped of a unit: a list of Prometheus' scrape configs. JSON is YAML, which the scraper reads."""
    return CONFIG / "scrape.d" / (name + ".yml")


def scrape_configs(name: str, scrape: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """How a unit's metrics are scraped; none where it has none.

    Names of metrics that do not match `keep` go no further. The job is a label of the target, since the units of a
    service's instances have it in common, and names of jobs must differ.
    """
    if not scrape:
        return []
    return [
        {
            "job_name": name,
            "static_configs": [{"targets": [scrape["target"]], "labels": {"job": scrape["job"]}}],
            "metric_relabel_configs": [{"action": "keep", "source_labels": ["__name__"], "regex": scrape["keep"]}],
            "sample_limit": scrape["sample_limit"],
            "series_limit": scrape["series_limit"],
        }
    ]


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def layout(
    name: str, unit: str, configs: Sequence[File], service: Mapping[str, Any], scrape: Mapping[str, Any]
) -> List[File]:
    """Every file of a unit in the order in which they land: the unit last, since it points at the others."""
    return [
        *configs,
        File(service_path(name), as_json({"unit": name, **service})),
        File(scrape_path(name), as_json(scrape_configs(name, scrape))),
        File(unit_path(name), unit.replace(PLACEHOLDER, revision(unit, configs))),
    ]


def running_revision(environ: bytes) -> Optional[str]:
    """The revision in a process's environment, as /proc/<pid>/environ has it."""
    return _variable(environ, REVISION)


def lacks_device(environ: bytes, devices: Sequence[str]) -> bool:
    """Whether a process was started without one of these devices that is there now."""
    started_with = (_variable(environ, DEVICES) or "").split(",")
    return any(device not in started_with and device_is_there(device) for device in devices)


def device_is_there(device: str) -> bool:
    """`device` is as an engine takes it: PATH[:PATH[:PERMISSIONS]], or KIND=NAME of the container device interface."""
    if device.startswith("/"):
        return Path(device.split(":", maxsplit=1)[0]).exists()
    kind = device.split("=", maxsplit=1)[0]
    return any(
        kind in path.read_text(errors="replace") for place in CDI for path in Path(place).glob("*") if path.is_file()
    )


def _variable(environ: bytes, name: str) -> Optional[str]:
    for item in environ.split(b"\0"):
        key, _, value = item.partition(b"=")
        if key == name.encode():
            return value.decode()
    return None


def differing(files: Sequence[File]) -> List[File]:
    """Those that are not on the disk as they should be, where those who read them get to them."""
    return [file for file in files if not _is_right(file)]


def _is_right(file: File) -> bool:
    there = current(file)
    return there is not None and there["content"] == file.content and disk.is_open(file.path, file.mode)


def current(file: File) -> Optional[Dict[str, Any]]:
    """Content and mode of what is there now, None where nothing is."""
    if not file.path.is_file():
        return None
    return {
        "content": file.path.read_text(encoding="utf-8", errors="replace"),
        "mode": file.path.stat().st_mode & 0o7777,
    }


def clear_enablement(*names: str) -> None:
    """Remove what lies where the link that enables a unit has to be, and is none: `systemctl enable` would end there.

    systemd does not wait for the disk when it makes the link. What a check of the file system put there after a power
    cut is nobody's.
    """
    for name in names:
        for path in UNITS.glob("*.wants/" + systemd.full_name(name)):
            if not path.is_symlink():
                disk.remove(path)


def first_process(scope: Path) -> Optional[int]:
    """The oldest process in a container's cgroup; crun keeps it in a group of its own below the scope."""
    pids = [int(pid) for file in scope.rglob("cgroup.procs") for pid in file.read_text().split()]
    return min(pids, default=None)
