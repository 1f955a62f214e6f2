"""The robot's half of `artifact`: verified by the robot, staged beside what runs, switched at once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

SOURCE = Path(__file__).resolve().parents[2] / "plugins" / "modules" / "artifact.py"
CONTENT = b"\x7fELF of a kind"


@pytest.fixture
def module(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("artifact_module", SOURCE)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setattr(loaded, "ROOT", tmp_path / "opt")
    return loaded


def entry(version: str = "1.0", content: bytes = CONTENT, **different: Any) -> dict[str, Any]:
    return {
        "name": "vmagent",
        "version": version,
        "kind": "binary",
        "file": f"vmagent/{version}/{platform.machine()}/vmagent",
        "sha256": hashlib.sha256(content).hexdigest(),
        **different,
    }


def call(module: Any, capsys: Any, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
    with patch_module_args({"_ansible_check_mode": check_mode, **arguments}), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)


def ask(module: Any, capsys: Any, what: dict[str, Any], **more: Any) -> dict[str, Any]:
    return call(module, capsys, name="vmagent", candidates={platform.machine(): what}, **more)


def test_it_says_what_is_missing_then_installs_then_is_content(module, capsys, tmp_path):
    staged = tmp_path / "staged"
    staged.write_bytes(CONTENT)
    target = module.ROOT / "vmagent" / "1.0" / "vmagent"

    asked = ask(module, capsys, entry())
    assert asked["changed"]
    assert asked["path"] == str(target)
    assert not target.exists()

    assert ask(module, capsys, entry(), staged=str(staged))["changed"]
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o755
    assert list(target.parent.iterdir()) == [target]

    assert not ask(module, capsys, entry())["changed"]


def test_the_old_version_stays_beside_the_new(module, capsys, tmp_path):
    staged = tmp_path / "staged"
    for version in ("1.0", "1.1"):
        staged.write_bytes(CONTENT)
        ask(module, capsys, entry(version), staged=str(staged))
    assert sorted(path.name for path in (module.ROOT / "vmagent").iterdir()) == ["1.0", "1.1"]


def test_a_file_that_was_damaged_on_the_way_is_refused_by_the_robot(module, capsys, tmp_path):
    staged = tmp_path / "staged"
    staged.write_bytes(CONTENT + b"!")
    result = ask(module, capsys, entry(), staged=str(staged))
    assert result["failed"]
    for word in ("sha256", entry()["sha256"], "Nothing was changed"):
        assert word in result["msg"]
    assert not module.ROOT.exists()


def test_a_file_that_was_damaged_on_the_robot_is_brought_again(module, capsys, tmp_path):
    staged = tmp_path / "staged"
    staged.write_bytes(CONTENT)
    ask(module, capsys, entry(), staged=str(staged))
    (module.ROOT / "vmagent" / "1.0" / "vmagent").write_bytes(b"rotten")
    assert ask(module, capsys, entry())["changed"]


def test_another_architectures_artifact_is_not_this_machines(module, capsys):
    result = call(module, capsys, name="vmagent", candidates={"s390x": entry()})
    assert not result["known"]
    assert result["arch"] == platform.machine()


def test_removing_takes_every_version_and_changes_nothing_in_check_mode(module, capsys, tmp_path):
    staged = tmp_path / "staged"
    staged.write_bytes(CONTENT)
    ask(module, capsys, entry(), staged=str(staged))
    assert call(module, capsys, check_mode=True, name="vmagent", state="absent")["changed"]
    assert (module.ROOT / "vmagent").exists()
    assert call(module, capsys, name="vmagent", state="absent")["changed"]
    assert not (module.ROOT / "vmagent").exists()
    assert not call(module, capsys, name="vmagent", state="absent")["changed"]
