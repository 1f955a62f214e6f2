from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    Entry,
    MissingArtifact,
    Store,
    StoreError,
    TamperedArtifact,
    relative_path,
    sha256_file,
)


def entry(content: bytes = b"program", **changes: object) -> Entry:
    given: dict[str, object] = {
        "name": "vmagent",
        "version": "1.150.0",
        "requested": "1.150.0",
        "arch": "x86_64",
        "kind": "binary",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "source": "a test",
    }
    given.update(changes)
    parts = (str(given[key]) for key in ("name", "version", "arch", "name"))
    return Entry.from_dict({"file": relative_path(*parts), **given})


def add(store: Store, new: Entry, content: bytes = b"program") -> None:
    with store.staging() as staging:
        staged = staging / "staged"
        staged.write_bytes(content)
        store.add(new, staged)


def test_what_was_added_is_found_and_verified(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    add(store, entry())
    found = store.find("vmagent", "1.150.0", "x86_64")
    store.verify(found)
    assert found == entry()
    assert store.path(found) == tmp_path / "artifacts/vmagent/1.150.0/x86_64/vmagent"
    assert stat.S_IMODE(store.path(found).stat().st_mode) == 0o755


def test_the_manifest_is_the_documented_form(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry(requested="1.151.0"))
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "schema": 1,
        "artifacts": [
            {
                "name": "vmagent",
                "version": "1.150.0",
                "requested": "1.151.0",
                "arch": "x86_64",
                "kind": "binary",
                "file": "vmagent/1.150.0/x86_64/vmagent",
                "size": 7,
                "sha256": hashlib.sha256(b"program").hexdigest(),
                "source": "a test",
            }
        ],
    }


def test_a_missing_artifact_says_what_where_and_the_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry(version="1.149.0", requested="1.149.0"))
    with pytest.raises(MissingArtifact) as failure:
        store.find("vmagent", "1.150.0", "x86_64")
    text = str(failure.value)
    assert "vmagent 1.150.0 for x86_64" in text
    assert str(tmp_path) in text
    assert "(it has 1.149.0)" in text
    assert "ansible-playbook playbooks/artifacts.yml" in text


def test_another_architecture_is_not_offered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry())
    with pytest.raises(MissingArtifact, match=r"aarch64 is not in the artifact store \S+\. See"):
        store.find("vmagent", "1.150.0", "aarch64")


def test_a_stand_in_is_found_by_what_was_asked_for_and_by_what_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    stand_in = entry(version="1.145.0+ds1-2")
    add(store, stand_in)
    assert store.find("vmagent", "1.150.0", "x86_64") == stand_in
    assert store.find("vmagent", "1.145.0+ds1-2", "x86_64") == stand_in
    assert stand_in.is_stand_in
    assert not entry().is_stand_in


def test_the_entry_that_was_added_last_wins(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry(version="1.145.0+ds1-2"))
    add(store, entry())
    assert store.find("vmagent", "1.150.0", "x86_64") == entry()
    assert len(store.entries()) == 2


def test_adding_again_replaces(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry())
    add(store, entry(b"rebuilt"), b"rebuilt")
    assert store.entries() == [entry(b"rebuilt")]
    store.verify(entry(b"rebuilt"))


def test_another_content_in_the_same_file_drops_the_entry_that_it_makes_untrue(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry(requested="1.151.0"))
    add(store, entry(b"rebuilt"), b"rebuilt")
    assert store.entries() == [entry(b"rebuilt")]


def test_a_tampered_file_is_named_with_both_checksums(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry())
    store.path(entry()).write_bytes(b"malware")
    with pytest.raises(TamperedArtifact) as failure:
        store.verify(entry())
    text = str(failure.value)
    assert str(store.path(entry())) in text
    assert entry().sha256 in text
    assert hashlib.sha256(b"malware").hexdigest() in text
    assert "Delete it and run on the controller: ansible-playbook playbooks/artifacts.yml" in text


def test_a_listed_file_that_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry())
    store.path(entry()).unlink()
    with pytest.raises(MissingArtifact, match=r"is listed in .*manifest\.json but is not there"):
        store.verify(entry())


def test_a_file_with_a_wrong_checksum_never_enters(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, entry())
    with pytest.raises(TamperedArtifact, match="does not enter the artifact store"):
        add(store, entry(version="1.151.0", requested="1.151.0"), b"malware")
    assert store.entries() == [entry()]
    assert not (tmp_path / "vmagent/1.151.0").exists()


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        ("{", "no JSON"),
        ("[]", '"schema" must be 1'),
        ('{"schema": 2, "artifacts": []}', '"schema" must be 1'),
        ('{"schema": 1, "artifacts": {}}', '"artifacts" must be a list'),
        ('{"schema": 1, "artifacts": ["vmagent"]}', "must be a list of objects"),
        ('{"schema": 1, "artifacts": [{"name": "vmagent"}]}', "artifact 1: fields missing.*sha256"),
    ],
)
def test_a_damaged_manifest_is_named_with_what_is_wrong(tmp_path: Path, manifest: str, complaint: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(StoreError, match=complaint) as failure:
        Store(tmp_path).find("vmagent", "1.150.0", "x86_64")
    assert str(tmp_path / "manifest.json") in str(failure.value)
    assert "artifacts.yml" in str(failure.value)


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../etc/cron.d/x/y"},
        {"file": "/etc/passwd"},
        {"file": "vmagent/../x86_64/vmagent"},
        {"sha256": "abc"},
        {"size": "7"},
        {"size": -1},
        {"arch": "amd64"},
        {"kind": "script"},
        {"colour": "red"},
        {"source": None},
    ],
)
def test_an_entry_out_of_range_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(StoreError):
        Entry.from_dict({**entry().to_dict(), **change})


def test_a_version_cannot_lead_out_of_the_store() -> None:
    with pytest.raises(StoreError, match="cannot be part of a path"):
        relative_path("vmagent", "../1", "x86_64", "vmagent")


def _add_many(root: Path, process: int, gate: multiprocessing.synchronize.Barrier) -> None:
    store = Store(root)
    gate.wait()
    for number in range(20):
        content = f"{process} {number}".encode()
        add(store, entry(content, version=f"{process}.{number}", requested=f"{process}.{number}"), content)


def test_fills_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    gate = context.Barrier(4)
    workers = [context.Process(target=_add_many, args=(tmp_path, number, gate)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    entries = Store(tmp_path).entries()
    assert len(entries) == 80
    for each in entries:
        Store(tmp_path).verify(each)
    assert not list((tmp_path / ".staging").iterdir())


def test_staging_of_another_fill_may_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".staging").mkdir()
    gone = tmp_path / ".staging/gone"
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([gone]))
    with Store(tmp_path).staging() as folder:
        assert folder.is_dir()


def test_staging_of_a_killed_fill_is_cleared_after_a_day(tmp_path: Path) -> None:
    old, recent = tmp_path / ".staging/old", tmp_path / ".staging/recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    with Store(tmp_path).staging():
        assert not old.exists()
        assert recent.exists()


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a" * 3_000_000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"a" * 3_000_000).hexdigest()
