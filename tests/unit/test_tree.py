"""What must hold for the whole tree."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


# Its variables are many roles' own, and have their defaults there (test_variables.py).
FLEET = "fleet"


@pytest.mark.parametrize("role", sorted(set(ROLES) - {FLEET}))
def test_a_roles_defaults_are_what_its_argument_specs_say(role):
    defaults = load(ROOT / "roles" / role / "defaults" / "main.yml")
    options = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert {name: option["default"] for name, option in options.items() if not option.get("required")} == defaults


@pytest.mark.parametrize("role", ROLES)
def test_a_default_needs_no_variable_that_a_role_keeps_to_itself(role):
    """A role that is included later has brought its defaults when base checks them, and nothing else."""
    assert "__" not in str(load(ROOT / "roles" / role / "defaults" / "main.yml"))


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_the_roles_own_and_is_explained(role):
    specs = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]
    for name, option in specs["main"]["options"].items():
        assert name.startswith(f"{role}_") or role == FLEET
        assert option["description"].rstrip().endswith("."), name
        assert option["type"], name


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_readme_says_what_its_argument_specs_say(role):
    said = " ".join((ROOT / "roles" / role / "README.md").read_text().split())
    specs = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]
    described = specs["description"] if isinstance(specs["description"], list) else [specs["description"]]
    whole = " ".join([f"{specs['short_description']}.", *described])
    assert said.startswith(f"# {role} {' '.join(whole.split())} Its variables: ")
    assert f"roverwatch.fleet.{role}`" in said


# The work of playbooks that look, copy or ask; `rollout` has others put something onto robots.
NOTHING_TO_TAKE_OFF = {
    *("artifacts", "backfill", "backup", "credentials", "dashboards", "decommission", "fleet", "health", "load_test"),
    *("outdated", "restore", "rollback", "rollout"),
}


@pytest.mark.parametrize("role", sorted(set(ROLES) - NOTHING_TO_TAKE_OFF))
def test_every_role_can_be_taken_off_again(role):
    assert (ROOT / "roles" / role / "tasks" / "uninstall.yml").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "playbooks").rglob("*.yml")), ids=lambda path: path.stem)
def test_every_play_names_the_strategy_that_it_is_written_for(path):
    """An operator's environment may have another: with `free`, what is done once for all hosts is done for each."""
    plays = [play for play in load(path) if "hosts" in play] if isinstance(load(path), list) else []
    assert [play["name"] for play in plays if play.get("strategy") != "linear"] == []


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in map(ROOT.joinpath, listed.splitlines()) if path.is_file() and not path.is_symlink()]


def test_locks_carry_hashes_and_no_addresses():
    for lock in (ROOT / "requirements.txt", ROOT / "app" / "requirements.txt"):
        text = lock.read_text()
        assert "://" not in text
        pinned = re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE)
        assert pinned
        assert len(re.findall(r"^[a-z0-9-]+==.*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pinned)


def test_no_secret_is_in_the_tree():
    for path in tracked():
        assert "PRIVATE " + "KEY-----" not in path.read_text(errors="ignore"), path


def test_nothing_is_pulled_by_a_moving_tag():
    for path in tracked():
        if path.suffix in (".yml", ".j2", ".sh") or path.name == "Dockerfile":
            assert not re.search(r"[a-z]:latest\b", path.read_text()), path


def test_an_engine_is_not_asked_with_a_template_for_what_an_image_may_lack():
    """Such a template fails as a whole for an image without labels, as most official ones are."""
    for path in tracked():
        if path.suffix in (".py", ".sh", ".yml", ".j2") or path.name == "Makefile":
            assert not re.search(r"\{\{\s*(index|range) \.|\{\{\s*\.(Config|ContainerConfig)\.", path.read_text()), path


# --- what nothing reads ----------------------------------------------------------------------------------------

# What Ansible looks for by its name.
OF_ANSIBLE = {"ActionModule", "CallbackModule", "FilterModule", "InventoryModule", "ModuleDocFragment"}
OF_ANSIBLE |= {"DOCUMENTATION", "EXAMPLES", "RETURN"}


def words() -> Counter[str]:
    """How often each word stands in what is not a test, a page or a description of a variable."""
    found: Counter[str] = Counter()
    for path in tracked():
        name = str(path.relative_to(ROOT))
        if name.startswith(("tests/unit/", "app/tests/", "docs/", "bench/results/")) or name.endswith(
            "argument_specs.yml"
        ):
            continue
        found.update(re.findall(r"\w+", path.read_text(errors="replace")))
    return found


def defined(path: Path) -> Iterator[str]:
    """The functions, classes and constants of a file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def test_there_is_no_name_that_nothing_reads() -> None:
    count = words()
    python = [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / "plugins")]
    python += [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / "app" / "src")]
    names = {name for path in python for name in defined(path)} - OF_ANSIBLE
    # Those of group_vars and of roles' defaults have a spec, which test_variables.py looks at.
    for path in (ROOT / "roles").glob("*/vars/main.yml"):
        names |= set(load(path))
    for path in (ROOT / "plugins" / "filter").glob("*.py"):
        names |= set(re.findall(r'^ +"(\w+)": ', path.read_text().partition("def filters")[2], re.MULTILINE))
    assert sorted(name for name in names if count[name] < 2 and not name.startswith("__")) == []
