"""Every variable that a fleet can set: its spec is true, the page is made of it, and nothing else gets through."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible_runs
import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service import role_variables
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.service.role_variables import KNOWN, OPTIONS
from jinja2 import Environment, nodes

from docs import variables

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
OURS = re.compile(r"({})_[a-z0-9_]+".format("|".join(sorted(OPTIONS, key=len, reverse=True))))
# Values of these keys are expressions, without braces.
EXPRESSIONS = {"when", "that", "until", "changed_when", "failed_when"}
ROLE = re.compile(r"(?m)^ +role: (\w+)$")

# Names that look like a variable of ours, and are something else: metrics, a field, modules, the library.
OTHERS = {"base_image", "rollout_lines", "vmagent_remotewrite_packets_dropped_total"}
OTHERS |= {"vmagent_remotewrite_pending_data_bytes"}
PLUGINS = {path.stem for path in ROOT.glob("plugins/*/*.py")}
LIBRARY = {path.stem for path in ROOT.glob("plugins/*_utils/**/*.py")} | {
    path.name for path in ROOT.glob("plugins/*_utils/**") if path.is_dir()
}


# --- what is read


def strings(value: Any, key: str = "") -> Iterator[str]:
    """The templates in a YAML file, and its expressions as templates."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from strings(each, str(name))
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, key)
    elif isinstance(value, str):
        yield f"{{{{ {value} }}}}" if key in EXPRESSIONS else value


def names(template: str) -> set[str]:
    """What a template may read: variables, those of other hosts, and what it looks for by name."""
    if "{{" not in template and "{%" not in template:
        return set()
    tree = Environment(autoescape=True).parse(template)
    found = {node.name for node in tree.find_all(nodes.Name)} | {node.attr for node in tree.find_all(nodes.Getattr)}
    return found | {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}


def constants(file: Path) -> set[str]:
    tree = ast.walk(ast.parse(file.read_text()))
    return {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def files() -> list[Path]:
    of_roles = [
        path for kind in ("defaults", "handlers", "tasks", "vars") for path in ROOT.glob(f"roles/*/{kind}/*.yml")
    ]
    of_fleets = [path for path in ROOT.glob("group_vars/**/*.yml") if path.stem != "lab"]  # what tests need beside it
    return [*of_roles, *of_fleets, *PLAYBOOKS]


def read() -> dict[str, set[str]]:
    """Every name that is read, with the files that do."""
    found: dict[str, set[str]] = {}

    def add(file: Path, which: set[str]) -> None:
        for name in which:
            found.setdefault(name, set()).add(str(file.relative_to(ROOT)))

    for file in files():
        for text in strings(yaml.safe_load(file.read_text())):
            add(file, names(text))
    for file in ROOT.glob("roles/*/templates/*.j2"):
        add(file, names(file.read_text()))
    for file in ROOT.glob("plugins/**/*.py"):
        add(
            file,
            {text for text in constants(file) if text in KNOWN or OURS.fullmatch(text)} - OTHERS - PLUGINS - LIBRARY,
        )
    return found


def test_every_variable_that_is_read_has_a_spec() -> None:
    unknown = {name: sorted(where) for name, where in read().items() if OURS.fullmatch(name) and name not in KNOWN}
    assert unknown == {}


def test_every_variable_that_group_vars_set_has_a_spec() -> None:
    for file in files():
        if file.is_relative_to(ROOT / "group_vars"):
            own = set(yaml.safe_load(file.read_text()))
            assert {name for name in own if not name.startswith("__")} - KNOWN == set(), file


def test_every_variable_with_a_spec_is_read() -> None:
    """By a template, by name in a plugin, or as an option of a module that is told which role it works for."""
    found = read()
    handed_on = {match for file in ROOT.glob("roles/*/tasks/*.yml") for match in ROLE.findall(file.read_text())}
    handed_on |= {"load_test", "backfill"}
    options = {text for file in ROOT.glob("plugins/**/*.py") for text in constants(file)}
    unread = {
        name
        for role, own in OPTIONS.items()
        for name in own
        if name not in found and not (role in handed_on and name.removeprefix(f"{role}_") in options)
    }
    assert unread == set()


FALLBACK = re.compile(r"\b(\w+) ?\| ?default\(([^()]*(?:\([^()]*\)[^()]*)?)\)")


# What means "not set" there, and the address that is there without group_vars.
OTHERWISE = {
    *(("gcp_hub", "site"), ("gcp_hub", "fleet"), ("credentials", "vmauth_tls_names")),
    *(("vmalert", "hub_url"), ("vmauth", "hub_url"), ("base", "artifacts_dir")),
}


def test_who_falls_back_says_what_the_spec_says() -> None:
    """A variable of another role is read with its default, as that role need not be in the play."""
    whole = {name: option["default"] for own in OPTIONS.values() for name, option in own.items() if "default" in option}
    compared = set()
    other = []
    for file in files():
        for text in strings(yaml.safe_load(file.read_text())):
            for name, default in FALLBACK.findall(text):
                if name in whole and default != "omit" and not default.endswith("true"):
                    compared.add(name)
                    said = str(whole[name])
                    literal = default.strip("'\"") if default[:1] in "'\"" else default
                    bare = said.removeprefix("{{ ").removesuffix(" }}")
                    role = file.relative_to(ROOT / "roles").parts[0] if file.is_relative_to(ROOT / "roles") else ""
                    if (
                        not {literal, default} & {said, bare, said.lower(), f"'{bare}'"}
                        and (role, name) not in OTHERWISE
                    ):
                        other.append(f"{file}: {name} | default({default})")
    assert other == []
    assert {"memory_budget", "fleet", "site", "container_engine", "pki_dir", "artifacts_dir"} <= compared


# --- the page


def test_the_page_is_what_the_specs_say() -> None:
    assert variables.PAGE.read_text() == variables.page(), "make variables"


def test_the_page_has_every_variable_once() -> None:
    listed = re.findall(r"(?m)^\| `(\w+)` \|", variables.page())
    assert sorted(listed) == sorted(KNOWN)


# --- who is refused

ROBOTS = ("robot-1", "robot-2", "robot-3", "robot-4", "robot-5")
# Nothing answers there.
NOWHERE = {"ansible_host": "127.0.0.1", "ansible_port": 1}


def said(folder: Path, playbook: str, *arguments: str, **variables: Any) -> str:
    """What a playbook prints that must be refused before a machine is asked; group and host variables by their name."""
    own = {name.replace("_", "-"): value for name, value in variables.items()}
    groups = {
        "robots": {"hosts": {robot: {**NOWHERE, **own.get(robot, {})} for robot in ROBOTS}},
        "hubs": {"hosts": {"hub-1": {**NOWHERE, **own.get("hub-1", {})}}},
        "others": {"hosts": {"web-1": {"backup_dir": "/srv"}}},
    }
    (folder / "hosts.yml").write_text(json.dumps(groups))
    for name in ("all", "robots", "hubs"):
        if name in own:
            (folder / "group_vars").mkdir(exist_ok=True)
            (folder / "group_vars" / f"{name}.yml").write_text(yaml.safe_dump(own[name]))
    done = ansible_runs.run("ansible-playbook", "-i", folder / "hosts.yml", *arguments, ROOT / "playbooks" / playbook)
    assert done.returncode == 2, done.stdout
    assert "UNREACHABLE" not in done.stdout
    return " ".join(done.stdout.partition("fatal: ")[2].split())


def first(playbook: Path) -> dict[str, Any]:
    play: dict[str, Any] = yaml.safe_load(playbook.read_text())[0]
    return play


# What the others begin with, and what only reads until it imports site.yml.
NO_BEGINNING = ("inventory", "rotate_secret")


def test_every_playbook_begins_with_the_check() -> None:
    roles = {}
    for path in PLAYBOOKS:
        if path.stem not in NO_BEGINNING:
            assert first(path)["ansible.builtin.import_playbook"] == "inventory.yml", path
            roles[path.stem] = first(path)["vars"]["__fleet_roles"]
    assert {role for those in roles.values() for role in those} <= set(OPTIONS)
    assert {name for name, those in roles.items() if those == ["base"]} == {"site", "firewall"}
    assert [name for name, those in roles.items() if name in OPTIONS and name not in those] == []


@pytest.mark.parametrize("playbook", [path.name for path in PLAYBOOKS if path.stem not in NO_BEGINNING])
def test_a_misspelt_variable_is_refused_with_the_nearest_name(playbook: str, tmp_path: Path) -> None:
    output = said(tmp_path, playbook, "-e", "health_max_sample_age_second=30")
    assert "no variable health_max_sample_age_second: did you mean health_max_sample_age_seconds?" in output
    assert "Nothing was done: - role health" in output, "said once, and of nobody, as everybody has it"


def test_wherever_it_is_set_and_of_whom(tmp_path: Path) -> None:
    output = said(
        tmp_path,
        "health.yml",
        all={"dashboards_hour": 3},
        robots={"fleet_secert": "no"},
        hubs={"backup_destinatoin": "s3://x"},
        robot_2={"load_test_rat": 1},
    )
    for line in (
        "- role dashboards has no variable dashboards_hour: did you mean dashboards_hours?",
        "- robot-1, robot-2, robot-3 and 2 more: role fleet has no variable fleet_secert: did you mean fleet_secret?",
        "- hub-1: role backup has no variable backup_destinatoin: did you mean backup_destination?",
        "- robot-2: role load_test has no variable load_test_rat: did you mean load_test_rate?",
    ):
        assert line in output
    assert "backup_dir" not in output, "other machines of the inventory have variables of their own"


def test_site_yml_leaves_it_to_base_where_no_other_machine_is_changed_before(tmp_path: Path) -> None:
    output = said(tmp_path, "site.yml", robot_2={"load_test_rat": 1})
    assert "Nothing was done: - robot-2: role load_test has no variable load_test_rat" in output
    with pytest.raises(AssertionError, match="UNREACHABLE"):
        said(tmp_path, "site.yml", "--limit", "robots", robot_2={"load_test_rat": 1})


def test_a_value_of_another_type_is_refused_by_the_playbook_that_reads_it(tmp_path: Path) -> None:
    output = said(tmp_path, "decommission.yml", "-e", "decommission_keep_data=yess", "-e", "load_test_rate=fast")
    assert "decommission_keep_data" in output and "yess" in output
    assert "load_test_rate" not in output
    assert "load_test_rate" in (output := said(tmp_path, "load_test.yml", "-e", "load_test_rate=fast"))
    assert "'fast'" in output


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ({"roverwatch.fleet.load_test": {"version": "1"}}, {"load_test_rat": 1, "load_test_connections": "many"}),
        ({"roverwatch.fleet.backfill": {"step": "look"}}, {"backfill_perod": "1h"}),
        ({"roverwatch.fleet.hub_backup": {"version": "1"}}, {"backup_nam": "x", "backup_secrets": "s3cr3t"}),
        ({"roverwatch.fleet.hub_restore": {"version": "1"}}, {"restore_hb": "x", "restore_replace": "perhaps"}),
    ],
)
def test_in_a_play_of_ones_own_the_task_says_it(task: dict[str, Any], wrong: dict[str, Any], tmp_path: Path) -> None:
    """Without the roles and their playbooks."""
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "hub-1", "gather_facts": False, "tasks": [task]}]))
    output = said(tmp_path, str(tmp_path / "play.yml"), hub_1=wrong)
    for name in wrong:
        assert name in output, output
    assert "did you mean" in output
    assert "s3cr3t" not in output


def test_no_secret_is_shown(tmp_path: Path) -> None:
    output = said(tmp_path, "backup.yml", "-e", "backup_secrets=s3cr3t", "-e", "backup_destination=s3://x")
    assert "backup_secrets is not what it should be: dict" in output
    assert "s3cr3t" not in output


def test_a_variable_belongs_to_the_role_with_the_longest_name() -> None:
    wrong = ["gcp_hub_zne", "gcp_zne", "vmagent_extra_port", "somebody_elses"]
    (hub, gcp, vmagent) = role_variables.unknown(wrong)
    assert "role gcp_hub has no variable gcp_hub_zne: did you mean gcp_hub_zone?" in hub
    assert "role gcp has no variable gcp_zne: did you mean gcp_zone?" in gcp
    assert "role vmagent has no variable vmagent_extra_port" in vmagent
    assert len(role_variables.unknown(wrong, ["vmagent_extra"])) == 2, "an operator's own role has its own"
