from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.service.secret_files import (
    GENERATION,
    SecretFiles,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import disk

ME = os.getuid()


def secrets(tmp_path: Path, owner: int = ME, **values: object) -> SecretFiles:
    return SecretFiles(tmp_path / "sensor" / "secrets", owner, values)


def put(wanted: SecretFiles) -> str:
    """What a run of the module does: write what differs. Returns the generation."""
    generation = wanted.generation()
    if wanted.differing():
        wanted.write(generation)
    assert wanted.differing() == []
    return generation


def on_disk(wanted: SecretFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in wanted.directory.iterdir() if path.name != GENERATION}


def modes(wanted: SecretFiles) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in wanted.directory.iterdir()}


def test_only_the_owner_can_read_them(tmp_path):
    wanted = secrets(tmp_path, mqtt="hunter2", plug="line\r\nbreak 'ü")
    put(wanted)
    assert on_disk(wanted) == {"mqtt": b"hunter2", "plug": "line\r\nbreak 'ü".encode()}
    assert modes(wanted) == {0o400}
    assert wanted.directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(ME != 0, reason="only root gives files away")
def test_they_are_given_to_the_services_user(tmp_path):
    wanted = secrets(tmp_path, owner=65532, mqtt="hunter2")
    put(wanted)
    assert {path.stat().st_uid for path in (wanted.directory, *wanted.directory.iterdir())} == {65532}
    os.chown(wanted.directory / "mqtt", 0, 0)
    assert wanted.differing() == ["mqtt"]


def test_the_generation_is_new_when_they_are_and_says_nothing_of_them(tmp_path):
    first = put(secrets(tmp_path, mqtt="hunter2"))
    assert put(secrets(tmp_path, mqtt="hunter2")) == first
    assert put(secrets(tmp_path, mqtt="hunter3")) != first
    assert put(secrets(tmp_path, mqtt="hunter2")) != first


def test_one_that_is_gone_goes(tmp_path):
    first = put(secrets(tmp_path, mqtt="hunter2", plug="swordfish"))
    rest = secrets(tmp_path, mqtt="hunter2")
    assert rest.differing() == ["plug"]
    assert put(rest) != first
    assert on_disk(rest) == {"mqtt": b"hunter2"}
    none = secrets(tmp_path)
    assert none.differing() == [GENERATION, "mqtt"]
    assert put(none) == ""
    assert not none.directory.exists()


def test_a_run_that_was_cut_off_is_seen_by_the_next(tmp_path, monkeypatch):
    """Or the process would keep the old ones: it is restarted if its generation is not the one on the disk."""
    first = put(secrets(tmp_path, mqtt="hunter2"))
    changed = secrets(tmp_path, mqtt="hunter3")
    write = disk.write
    written = []

    def cut_off(path: Path, text: str, mode: int, owner: int) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, text, mode, owner)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(disk, "write", cut_off)
        changed.write(changed.generation())
    assert put(changed) != first


@pytest.mark.parametrize(
    "disturb",
    [
        lambda directory: (directory / "mqtt").chmod(0o440),
        lambda directory: (directory / "mqtt").unlink(),
        lambda directory: (directory / GENERATION).unlink(),
        lambda directory: (directory / "left").write_text("over"),
        lambda directory: directory.chmod(0o755),
    ],
)
def test_whatever_is_not_as_it_should_be_is_put_right(tmp_path, disturb):
    wanted = secrets(tmp_path, mqtt="hunter2")
    first = put(wanted)
    disturb(wanted.directory)
    assert wanted.differing()
    assert put(wanted) != first
    assert on_disk(wanted) == {"mqtt": b"hunter2"}
    assert modes(wanted) == {0o400}


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a b", "a" * 64, "new\nline"])
def test_a_wrong_name_is_refused(tmp_path, name):
    [problem] = secrets(tmp_path, **{name: "hunter2"}).problems()
    assert repr(name) in problem
    assert "A-Za-z0-9._-" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("value", [1234, "", None, ["hunter2"]])
def test_what_is_no_text_is_refused_without_a_word_of_it(tmp_path, value):
    assert secrets(tmp_path, mqtt=value).problems() == [
        "secret 'mqtt': must be text that is not empty; put a number into quotes"
    ]


def test_good_ones_are_no_problem(tmp_path):
    assert secrets(tmp_path, **{"a": "x", "mqtt_password-2.txt": "hunter2", "z" * 63: "y"}).problems() == []
