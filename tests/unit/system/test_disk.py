"""What is written reaches the disk before anything says so; and who writes on a machine without seeing to it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import disk

ROOT = Path(__file__).resolve().parents[3]


class Calls:
    """The order in which a file gets its content, its name, and both get onto the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def traced_fsync(descriptor: int) -> None:
            self.seen.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
            fsync(descriptor)

        def traced_replace(path: Path, target: Path) -> Path:
            self.seen.append(f"{path.name} becomes {target.name}")
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", traced_fsync)
        monkeypatch.setattr(Path, "replace", traced_replace)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_end(tmp_path: Path, calls: Calls) -> None:
    disk.write(tmp_path / "unit", "text", 0o640)
    assert calls.seen == ["fsync .unit.new", ".unit.new becomes unit", f"fsync {tmp_path.name}"]
    assert ((tmp_path / "unit").read_text(), (tmp_path / "unit").stat().st_mode & 0o7777) == ("text", 0o640)
    assert [path.name for path in tmp_path.iterdir()] == ["unit"]


def test_a_copy_as_well(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "staged").write_bytes(b"\x7fELF" * 1000)
    disk.copy(tmp_path / "staged", tmp_path / "program", 0o755)
    assert calls.seen == ["fsync .program.new", ".program.new becomes program", f"fsync {tmp_path.name}"]
    assert (tmp_path / "program").read_bytes() == b"\x7fELF" * 1000


def test_directories_that_are_missing_are_made_and_open_to_all_whatever_the_umask(tmp_path: Path, calls: Calls) -> None:
    before = os.umask(0o077)
    try:
        disk.write(tmp_path / "etc" / "roverwatch" / "file", "x")
        disk.make_directory(tmp_path / "closed", 0o700)
    finally:
        os.umask(before)
    for name, mode in {"etc": 0o755, "etc/roverwatch": 0o755, "closed": 0o700}.items():
        assert (tmp_path / name).stat().st_mode & 0o7777 == mode
    for parent in (tmp_path.name, "etc", "roverwatch"):
        assert f"fsync {parent}" in calls.seen


def test_what_is_removed_or_renamed_stays_so(tmp_path: Path, calls: Calls) -> None:
    (tmp_path / "tree" / "branch").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    for name in ("link", "tree", "never was"):
        calls.seen.clear()
        disk.remove(tmp_path / name)
        assert calls.seen == [f"fsync {tmp_path.name}"]
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").mkdir()
    disk.rename(tmp_path / "old", tmp_path / "new")
    assert calls.seen[-1] == f"fsync {tmp_path.name}"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


class Libc:
    """Stands for the C library: each file system that was synced, by its device."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.devices: list[int] = []

    def syncfs(self, descriptor: int) -> int:
        self.devices.append(os.fstat(descriptor).st_dev)
        return self.status


def test_each_file_system_is_synced_once_and_a_path_that_is_not_there_by_what_is_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = Libc()
    monkeypatch.setattr(disk.ctypes, "CDLL", lambda *_, **__: libc)
    disk.sync(tmp_path, tmp_path / "not" / "there", Path("/proc"))
    assert libc.devices == [tmp_path.stat().st_dev, Path("/proc").stat().st_dev]


def test_an_error_of_the_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.ctypes, "CDLL", lambda *_, **__: Libc(-1))
    monkeypatch.setattr(disk.ctypes, "get_errno", lambda: 5)
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync(tmp_path)


def test_the_c_library_has_it() -> None:
    disk.sync(Path("/proc"))


# --- who writes ------------------------------------------------------------------------------------------------

# Calls that change a file system, by the attribute's name. `replace` and `rename` of a path look like those of a text,
# and are found by their module, `os`, or not at all.
WRITES = {
    "chmod",
    "copy",
    "copy2",
    "copyfile",
    "copytree",
    "hardlink_to",
    "link",
    "makedirs",
    "mkdir",
    "move",
    "removedirs",
    "rename",
    "rmdir",
    "rmtree",
    "symlink",
    "symlink_to",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}
# Files of a machine that are written in another way, and why that may be. Everything else uses `disk`.
ALLOWED = {
    "plugins/module_utils/roverwatch/system/disk.py": "is what everybody else uses",
    "plugins/module_utils/roverwatch/backup/outcome.py": "removes a directory in memory",
    "plugins/module_utils/roverwatch/backup/steps.py": "removes a directory in memory",
    "plugins/module_utils/roverwatch/service/capped_unit.py": "validates a copy in a temporary directory",
    "plugins/module_utils/roverwatch/artifact/installed.py": "unpacks an image in Ansible's temporary directory",
    "plugins/modules/load_test.py": "removes a directory in memory",
}
# What runs on the controller alone. What it installs there, the artifact store and the certificates, uses `disk`.
CONTROLLERS = {"store.py", "copying.py"}


def machines_code() -> list[Path]:
    found = [*(ROOT / "plugins/modules").glob("*.py"), *(ROOT / "plugins/module_utils/roverwatch").rglob("*.py")]
    return sorted(path for path in found if path.name not in CONTROLLERS)


def writers(tree: ast.AST) -> Iterator[str]:
    """What in a program changes a file system, a call each."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if owner == "disk" or (name == "copy" and owner not in ("shutil", "")):
            continue
        modes = [
            word.value for word in [*node.args, *(key.value for key in node.keywords)] if isinstance(word, ast.Constant)
        ]
        opened = name == "open" and any(
            isinstance(mode, str) and re.fullmatch(r"[wax]b?\+?|r\+b?", mode) for mode in modes
        )
        if opened or name in WRITES or (owner == "os" and name in ("replace", "remove")):
            yield f"line {node.lineno}: {ast.unparse(node.func)}"


@pytest.mark.parametrize("path", machines_code(), ids=lambda path: path.name)
def test_who_writes_on_a_machine_sees_to_it_that_it_is_on_the_disk(path: Path) -> None:
    found = list(writers(ast.parse(path.read_text())))
    known = str(path.relative_to(ROOT)) in ALLOWED
    assert bool(found) == known, f"use disk.write and the like, or say in ALLOWED why not: {found}"


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from tasks(item)


# Ansible's own modules rename what they have written, and do not wait for the disk.
ANSIBLES = {"copy", "template", "lineinfile", "blockinfile", "unarchive", "get_url", "assemble", "replace"}
# Followed by a task that does.
FOLLOWED = {"roles/container_engine/tasks/install.yml"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("roles/*/*/*.yml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_role_leaves_it_to_ansible(path: Path) -> None:
    found = [
        task
        for task in tasks(yaml.safe_load(path.read_text()))
        if any(
            key.rpartition(".")[2] in ANSIBLES for key in task if isinstance(key, str) and key.startswith("ansible.")
        )
        and task.get("delegate_to") != "localhost"
    ]
    if str(path.relative_to(ROOT)) in FOLLOWED:
        last = yaml.safe_load(path.read_text())[-1]
        assert found
        assert last["ansible.builtin.command"]["argv"][:2] == ["sync", "--file-system"]
    else:
        assert not found, "use machine_files or a service's files"


SCRIPTS = [
    path for path in ROOT.glob("roles/*/files/*") if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh")
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_that_puts_a_file_in_place_waits_for_the_disk(script: Path) -> None:
    text = script.read_text()
    for placed in re.findall(r'^ *mv "(\$\w+)\.new" "\1"$', text, re.MULTILINE):
        # What the firewall has counted is written anew every 15 seconds, and starts at nothing with each boot.
        if (script.name, placed) == ("roverwatch-firewall", "$metrics"):
            continue
        if (script.name, placed) == ("roverwatch-firewall", "$tried"):
            continue  # in memory
        assert f'sync "{placed}.new"' in text
        assert f'sync "${{{placed[1:]}%/*}}"' in text
