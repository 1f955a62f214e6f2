"""What the modules of a service share: one service, whole, in one call on the machine.

The action plugin sends the manifest's entries by artifact and architecture (`candidates`). The machine says what it
lacks, having changed nothing, and is called again with the files (`staged`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from ansible.module_utils.basic import AnsibleModule

from ..artifact import engine, installed
from ..common import sizes
from ..system import disk, systemd, units
from . import capped_unit

# What the instances of a service are, from what the machine has of each artifact (`installed.properties`).
Instances = Callable[[Mapping[str, Mapping[str, str]]], Sequence[Mapping[str, Any]]]

# The options that both modules have.
SPEC: Dict[str, Dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "unit": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "description": {"type": "str"},
    "version": {"type": "str"},
    "memory_max": {"type": "str"},
    "secrets": {"type": "dict", "no_log": True, "default": {}},
    "port": {"type": "int"},
    "ready_path": {"type": "str"},
    "ready_timeout": {"type": "int", "default": 30},
    "job": {"type": "str"},
    "metrics_keep": {"type": "str", "default": ".*"},
    "sample_limit": {"type": "int", "default": 2000},
    "series_limit": {"type": "int", "default": 4000},
    # From the action plugin.
    "candidates": {"type": "dict"},
    "staged": {"type": "dict", "default": {}},
}
# Present needs all of these.
REQUIRED_IF = [("state", "present", ("description", "version", "memory_max", "port", "ready_path", "job"))]


# What a service is made of lies here; the last of it, the link that enables a unit, is systemd's to write.
WRITTEN = (units.UNITS, units.CONFIG, installed.ROOT)


def config_dir(name: str) -> Path:
    """A directory that the service alone uses. What is called `<unit>.*` in it belongs to that unit."""
    return units.CONFIG / name


def checked(params: Mapping[str, Any]) -> Dict[str, Any]:
    """The options, with `memory_max` in bytes. Raises Refused, with nothing changed, where one is none of its kind."""
    try:
        re.compile(params["metrics_keep"])
        return {**params, "memory_max": sizes.to_bytes(params["memory_max"])}
    except re.error as error:
        # Whatever scrapes the service would leave it out, and go on.
        raise capped_unit.Refused(
            "nothing was changed: <role>_metrics_keep is no regular expression: {}: {}".format(
                error, params["metrics_keep"]
            )
        ) from error
    except ValueError as error:
        raise capped_unit.Refused("nothing was changed: memory_max: {}".format(error)) from error


def scrape(wanted: Mapping[str, Any], port: int) -> Dict[str, Any]:
    """How an instance's metrics are scraped (`units.scrape_configs`)."""
    return {
        "target": "127.0.0.1:{}".format(port),
        "job": wanted["job"],
        "keep": wanted["metrics_keep"],
        "sample_limit": wanted["sample_limit"],
        "series_limit": wanted["series_limit"],
    }


def present(
    params: Mapping[str, Any], container_engine: Optional[str], instances: Instances, check_mode: bool
) -> Dict[str, Any]:
    """Make every instance run exactly what its unit and files say, one after the other, and remove the others.

    All files and units that differ are validated first: where one is invalid, none is changed. Raises what
    installed.ensure does, capped_unit.Refused and systemd.SystemdError.
    """
    properties, brought = installed.ensure(params["candidates"], params["staged"], container_engine, check_mode)
    wanted = [capped_unit.CappedUnit(instance, check_mode) for instance in instances(properties)]
    for unit in wanted:
        unit.validate()
    unwanted = [
        capped_unit.UnwantedUnit(unit, sorted(config_dir(params["name"]).glob(unit + ".*")))
        for unit in units.instances(params["unit"])
        if unit not in [kept.name for kept in wanted]
    ]
    result: Dict[str, Any] = {
        "changed": bool(brought or unwanted) or any(unit.changed for unit in wanted),
        "artifacts": properties,
        "diff": [{"prepared": "{} {}: brought\n".format(name, properties[name]["version"])} for name in brought]
        + [part for unit in wanted for part in unit.diff()]
        + [{"prepared": "{}: removed\n".format(unit.name)} for unit in unwanted],
    }
    if check_mode:
        return result
    result["instances"] = {unit.name: unit.apply(bool(brought)) for unit in wanted}
    for other in unwanted:
        other.apply()
    if result["changed"]:
        disk.sync(*WRITTEN)
    return result


def absent(
    params: Mapping[str, Any], artifacts: Sequence[str], container_engine: Optional[str], check_mode: bool
) -> Dict[str, Any]:
    """Remove every instance, what belongs to them, and every version of the artifacts."""
    own = config_dir(params["name"])
    there = own.exists()
    own_unit = [params["unit"]] if units.is_ours(units.unit_path(params["unit"])) else []
    names: List[str] = sorted({*own_unit, *units.instances(params["unit"])})
    unwanted = [capped_unit.UnwantedUnit(name, []) for name in names]
    changed = there or any(unit.changed for unit in unwanted)
    if not check_mode:
        for unit in unwanted:
            unit.apply()
        disk.remove(own)
    for name in artifacts:
        changed = installed.remove(name, container_engine, check_mode) or changed
    if changed and not check_mode:
        disk.sync(*WRITTEN)
    return {"changed": changed}


def run(module: AnsibleModule, work: Callable[[], Dict[str, Any]]) -> None:
    """End the module with what the work returns, or with an error that a person can act on."""
    try:
        module.exit_json(**work())
    except installed.Lacking as lacking:
        module.exit_json(**lacking.answer)
    except (installed.ArtifactError, engine.EngineError, capped_unit.Refused, systemd.SystemdError) as error:
        module.fail_json(msg="{}: {}".format(module.params["name"], error))
