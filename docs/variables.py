"""Writes docs/variables.md of the roles' specs (`make variables`); tests/unit/test_variables.py says when it is old."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "variables.md"
# What comes first; then what an operator gives on a command line, by its playbook; then what machines have.
FIRST = ("fleet", "artifacts")
# A value that is longer is not shown, but where it stands.
LONGEST = 44
# Another variable's value.
FALLBACK = re.compile(r"\{\{ (\w+) \| default\([^()]*\) \}\}")
ABOUT = """\
<!-- Written by `make variables` from roles/*/meta/argument_specs.yml. -->
# Variables

Every variable that a fleet can set, by the role that it belongs to. They go into group_vars, into the inventory, or
behind `-e`: [where](inventories.md#where-variables-go). A name that begins like those of a role and is none of them is
refused before anything is done, with the nearest one; so is a value that is not of its type.

Sizes are whole numbers, alone or with `K`, `M`, `G` or `T`, in base 1024. Durations are numbers with `ms`, `s`, `m`,
`h`, `d`, `w` or `y`, such as `15s` or `1d12h`. The default is what counts where nobody sets the variable, with this
repository's group_vars; where it is another variable, that one's value. A secret belongs into a vaulted file, and no
message shows it.
"""


def page() -> str:
    """The whole text."""
    specs = {path.parts[-3]: _spec(path) for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))}
    chosen = _chosen()
    playbooks = {path.stem for path in ROOT.glob("playbooks/*.yml")}
    parts = {
        "The fleet": FIRST,
        "Playbooks": [role for role in specs if role in {*playbooks, "rollout", "gcp", "gcp_hub", "gcp_firewall"}],
        "Machines": list(specs),
    }
    lines = [ABOUT]
    done: set[str] = set()
    for title, roles in parts.items():
        lines.append(f"## {title}\n")
        for role in roles:
            if role not in done and specs[role]["options"]:
                lines += _section(role, specs[role], chosen)
            done.add(role)
    return "\n".join(lines)


def _spec(path: Path) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(path.read_text())["argument_specs"]["main"]
    return spec


def _section(role: str, spec: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"### {role}\n"
    yield f"{_text(spec['description'])}\n"
    yield "| variable | default | type | is |"
    yield "|---|---|---|---|"
    for name, option in spec["options"].items():
        default = _default(f"roles/{role}/meta/argument_specs.yml", option, name, chosen)
        yield f"| `{name}` | {default} | {_type(option)} | {_text(option['description'])} |"
    yield ""


def _chosen() -> dict[str, dict[str, Any]]:
    """What group_vars say, by the file: of every machine, of robots, of hubs."""
    files = [*sorted(ROOT.glob("group_vars/all/*.yml")), ROOT / "group_vars/robots.yml", ROOT / "group_vars/hubs.yml"]
    return {str(path.relative_to(ROOT)): yaml.safe_load(path.read_text()) for path in files}


def _default(file: str, option: Mapping[str, Any], name: str, chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """What counts where nobody sets it, of a hub as well where that is another value."""
    own = {path: values[name] for path, values in chosen.items() if name in values}
    hub = "group_vars/hubs.yml"
    everywhere = [(path, value) for path, value in own.items() if path != hub] or [(file, option.get("default"))]
    path, value = everywhere[0]
    shown = "required" if value is None else _value(value, path)
    if hub not in own or own[hub] == value:
        return shown
    return f"{shown or 'empty'}; hubs: {_value(own[hub], hub)}"


def _value(value: Any, file: str) -> str:
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6)
    text = text.partition("\n...")[0].strip()
    if other := FALLBACK.fullmatch(text):
        return f"`{other[1]}`"
    if "{{" in text or "{%" in text:
        return f"[computed](../{file})"
    if len(text) > LONGEST:
        return f"[there](../{file})"
    return f"`{text}`" if text else ""


def _type(option: Mapping[str, Any]) -> str:
    kind = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "dict": "mapping"}
    named = kind.get(option["type"], option["type"])
    if option["type"] == "list":
        of = {"dict": " of mappings", "str": " of texts", "path": " of paths"}.get(option.get("elements", ""), "")
        named = f"list{of}"
    if "choices" in option:
        named += ": " + ", ".join(f"`{choice}`" for choice in option["choices"])
    return f"secret {named}" if option.get("no_log") else named


def _text(description: str | list[str]) -> str:
    text = description if isinstance(description, str) else " ".join(description)
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))
