"""Backups of a hub: what may be asked for, what vmbackup and vmrestore are told and say, and how a run is judged."""

from __future__ import annotations

import inspect
import json
import os
import random
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import binaries
import pytest
import s3
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup import outcome, steps
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup import request as backup_plan
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup.request import Plan, PlanError
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup.steps import (
    BACKUP,
    RESTORE,
    BackupError,
)
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import disk
from specs import typed

TOP = Path(__file__).parents[3]
MIB = 1 << 20
SECRET = "not-to-be-seen-anywhere"


def plan(**changes: Any) -> Plan:
    usual = {"hub": "hub-1", "destination": "fs:///var/backups/roverwatch", "name": "latest", "memory_max": 128 * MIB}
    return Plan(**{**usual, **changes})


def read(variables: dict[str, Any]) -> Plan:
    return backup_plan.read(typed(["backup", "restore"], variables), "hub-1")


# --- what is asked for


def test_a_destination_is_enough() -> None:
    asked = read({"backup_destination": "s3://bucket/fleet/"})
    assert asked == Plan("hub-1", "s3://bucket/fleet", "latest", 128 * MIB, "", 0, "", False)
    assert asked.place() == "s3://bucket/fleet/hub-1/latest"


def test_variables_come_as_text_or_yaml() -> None:
    asked = read(
        {
            "backup_destination": "s3://bucket",
            "backup_name": "before-upgrade",
            "backup_endpoint": "https://minio.example:9000/",
            "backup_memory_max": "64M",
            "backup_rate_max": "10M",
            "backup_secrets": {},
            "restore_hub": "hub-2",
            "restore_replace": "yes",
            "restore_confirm": "yes",
        }
    )
    assert asked == Plan(
        "hub-1", "s3://bucket", "before-upgrade", 64 * MIB, "https://minio.example:9000", 10 * MIB, "hub-2", True
    )
    assert asked.place() == "s3://bucket/hub-2/before-upgrade"


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("backup_destination", "/var/backups", "give s3://bucket/path"),
        ("backup_destination", "fs://relative", "give s3://bucket/path"),
        ("backup_destination", "s3://bucket/../other", "give s3://bucket/path"),
        ("backup_destination", "s3://bucket/%n", "give s3://bucket/path"),
        ("backup_destination", "s3://bucket/$HOME", "give s3://bucket/path"),
        ("backup_destination", "fs:///tmp", "a backup does not go below /home/"),
        ("backup_destination", "fs:///var/lib/roverwatch/victoriametrics/b", "a backup does not go below /home/"),
        ("backup_name", "", "give the name of a point"),
        ("backup_name", "../latest", "give the name of a point"),
        ("backup_endpoint", "minio:9000", "give scheme, host and port alone"),
        ("backup_endpoint", "https://user:word@minio", "give scheme, host and port alone"),
        ("backup_memory_max", "16M", "give at least 32M"),
        ("backup_memory_max", "128 MB", "'128 MB' is no size"),
        ("backup_rate_max", "fast", "'fast' is no size"),
        ("restore_hub", "a/b", "give the inventory name of the hub"),
    ],
)
def test_a_value_that_is_not_allowed(variable: str, value: object, remedy: str) -> None:
    with pytest.raises(PlanError) as failure:
        read({"backup_destination": "s3://bucket", variable: value})
    assert str(failure.value).startswith(f"{variable} is {value!r}: {remedy}")


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(PlanError) as failure:
        read({"backup_rate_max": "fast", "backup_memory_max": "1M"})
    text = str(failure.value)
    assert "backup_memory_max is '1M'" in text
    assert "backup_rate_max is 'fast'" in text
    assert "backup_destination is not set: give -e backup_destination=" in text


def test_an_endpoint_is_for_s3() -> None:
    with pytest.raises(PlanError, match="backup_endpoint is for s3:// alone"):
        read({"backup_destination": "gs://b", "backup_endpoint": "https://minio"})


def test_credentials_are_in_the_storages_own_format() -> None:
    keys = {"access_key_id": "AKIA", "secret_access_key": SECRET, "region": "eu-central-1"}
    assert backup_plan.credentials(keys, "s3") == (
        f"[default]\naws_access_key_id = AKIA\naws_secret_access_key = {SECRET}\nregion = eu-central-1\n"
    )
    account = {"client_email": "a@b", "private_key": SECRET, "type": "service_account"}
    assert json.loads(backup_plan.credentials(account, "gs")) == account
    assert backup_plan.credentials({"account_name": "a", "account_key": 'k"\\'}, "azblob") == (
        'AZURE_STORAGE_ACCOUNT_NAME="a"\nAZURE_STORAGE_ACCOUNT_KEY="k\\"\\\\"\n'
    )
    assert 'AZURE_USE_DEFAULT_CREDENTIAL="true"' in backup_plan.credentials({"account_name": "a"}, "azblob")
    assert backup_plan.credentials({}, "s3") == ""


@pytest.mark.parametrize(
    ("secrets", "scheme", "said"),
    [
        ({"access_key": SECRET}, "s3", "it has access_key"),
        ({"access_key_id": SECRET}, "s3", "it has access_key_id"),
        (
            {"access_key_id": SECRET, "secret_access_key": f"{SECRET}\n[x]"},
            "s3",
            "secret_access_key must be text of one",
        ),
        ({"access_key_id": 5, "secret_access_key": SECRET}, "s3", "access_key_id must be text of one line"),
        ({"key": SECRET}, "gs", "the JSON of a service account's key"),
        ({"key": SECRET}, "fs", "fs:// needs none"),
        ({}, "azblob", "azblob:// needs account_name"),
    ],
)
def test_credentials_that_are_not_allowed(secrets: dict[str, Any], scheme: str, said: str) -> None:
    with pytest.raises(PlanError) as failure:
        backup_plan.credentials(secrets, scheme)
    assert said in str(failure.value)
    assert SECRET not in str(failure.value)


# --- the unit of a run


def test_the_sandbox_is_that_of_the_services() -> None:
    found = steps.properties(BACKUP, plan(), [], "true", False)
    assert {"NoNewPrivileges=yes", "ProtectClock=yes", "SystemCallFilter=~@privileged @resources"} <= set(found)
    assert not any(line.startswith("#") or not line for line in found)


def test_a_run_is_in_a_cap_and_writes_where_it_must_alone() -> None:
    found = steps.properties(BACKUP, plan(memory_max=64 * MIB), [Path("/var/backups/roverwatch")], "true", False)
    assert {"User=roverwatch", f"MemoryMax={64 * MIB}", "MemorySwapMax=0", "ProtectSystem=strict"} <= set(found)
    assert [each for each in found if each.startswith("ReadWritePaths")] == ["ReadWritePaths=/var/backups/roverwatch"]
    assert {"IPAddressDeny=any", "IPAddressAllow=localhost"} <= set(found)


def test_a_run_that_leaves_the_machine_has_credentials_from_a_file() -> None:
    remote = steps.properties(BACKUP, plan(destination="s3://bucket"), [], "true", True)
    assert not any(each.startswith("IPAddressDeny") for each in remote)
    assert "StandardInput=file:/run/roverwatch-backup/credentials" in remote
    azure = steps.properties(BACKUP, plan(destination="azblob://box"), [], "true", True)
    assert "EnvironmentFile=/run/roverwatch-backup/credentials" in azure
    assert not any("redential" in arg for arg in steps.arguments(BACKUP, plan(destination="azblob://b"), "u", "/c"))
    assert "-credsFilePath=/c" in steps.arguments(RESTORE, plan(destination="s3://b"), "u", "/c")


# --- the real programs


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with binaries.victoriametrics(tmp_path) as url:
        yield Hub(url, tmp_path)


class Hub:
    """A VictoriaMetrics, and backups of it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.data = folder / "data"
        self.run = {kind: steps.Run(kind, folder, folder) for kind in ("backup", "restore")}
        self.plan = plan(destination=f"fs://{folder}/backups")

    def insert(self, name: str, robots: int = 3, samples: int = 200) -> None:
        now = int(time.time() * 1000)
        times = [now - 15_000 * number for number in range(samples)]
        # What does not compress takes a while where the rate is limited.
        numbers = random.Random(name)
        lines = [
            {
                "metric": {"__name__": name, "robot": f"robot-{robot}"},
                "values": [numbers.random() for _ in times],
                "timestamps": times,
            }
            for robot in range(robots)
        ]
        request = urllib.request.Request(
            f"{self.url}/api/v1/import", data="\n".join(map(json.dumps, lines)).encode(), method="POST"
        )
        urllib.request.urlopen(request).close()

    def command(self, kind: str, asked: Plan, credentials: str = "", data: Path | None = None) -> list[str]:
        run = self.run[kind]
        program = str(binaries.find(run.program))
        return [program, *steps.arguments(run, asked, self.url, credentials, data or self.data)]

    def do(self, kind: str, asked: Plan, credentials: str = "", data: Path | None = None) -> str:
        """The log of a run to its end."""
        command = self.command(kind, asked, credentials, data)
        return subprocess.run(command, check=False, capture_output=True, text=True).stderr

    def cut_off(self, kind: str, asked: Plan, until: str, data: Path | None = None) -> str:
        """The log of a run that is killed once `until` is in it."""
        log = self.run[kind].log
        with log.open("w") as stream:
            process = subprocess.Popen(self.command(kind, asked, "", data), stderr=stream)
        try:
            binaries.eventually(lambda: until in log.read_text(), f"{until!r} in {log}")
        finally:
            process.kill()
            process.wait()
        return log.read_text()

    def snapshots(self) -> list[str]:
        with urllib.request.urlopen(f"{self.url}/snapshot/list") as answer:
            listed: list[str] = json.load(answer)["snapshots"]
        return listed


def files(directory: Path) -> dict[str, bytes]:
    """What a database is made of."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for top in ("data", "metadata")
        for path in (directory / top).rglob("*")
        if path.is_file()
    }


def test_the_second_backup_sends_what_is_new(hub: Hub) -> None:
    hub.insert("one")
    first = outcome.figures(hub.do("backup", hub.plan))
    assert first["bytes"] == first["sent_bytes"] > 0
    hub.insert("two")
    log = hub.do("backup", hub.plan)
    second = outcome.figures(log)
    assert second["bytes"] > first["bytes"]
    assert 0 < second["sent_bytes"] < second["bytes"]
    assert outcome.snapshot_left(log) == ""
    assert hub.snapshots() == []
    assert outcome.progress(log) == {
        "done": pytest.approx(second["sent_bytes"], rel=0.01),
        "total": pytest.approx(second["sent_bytes"], rel=0.01),
        "left": "0s",
    }


def test_a_point_of_its_own_is_copied_by_the_storage(hub: Hub) -> None:
    hub.insert("one")
    hub.do("backup", hub.plan)
    point = plan(destination=hub.plan.destination, name="before-upgrade")
    figures = outcome.figures(hub.do("backup", point))
    assert figures["copied_bytes"] > figures["sent_bytes"]
    assert steps.check_source_files(point) == steps.check_source_files(hub.plan)


def test_what_is_restored_is_what_was_backed_up(hub: Hub) -> None:
    hub.insert("one", samples=500)
    hub.do("backup", hub.plan)
    restored = hub.folder / "restored"
    figures = outcome.figures(hub.do("restore", hub.plan, data=restored))
    assert figures["sent_bytes"] == figures["bytes"]
    found = steps.contents(restored)
    assert found.samples == 3 * 500
    assert abs(time.time() - found.newest / 1000) < 600
    with binaries.victoriametrics(_moved(restored, hub.folder / "other")) as url:
        assert steps.history(url) == "that of 3 robots (robot-0, robot-1, robot-2)"


def _moved(data: Path, folder: Path) -> Path:
    folder.mkdir()
    data.rename(folder / "data")
    return folder


def test_a_restore_that_was_cut_off_goes_on(hub: Hub) -> None:
    hub.insert("one", robots=200, samples=2000)
    hub.do("backup", hub.plan)
    whole, parts = hub.folder / "whole", hub.folder / "parts"
    hub.do("restore", hub.plan, data=whole)
    slow = plan(destination=hub.plan.destination, rate_max=20_000)
    log = hub.cut_off("restore", slow, "values.bin", data=parts)
    assert outcome.figures(log) == {}
    assert files(parts) != files(whole)
    hub.do("restore", hub.plan, data=parts)
    assert files(parts) == files(whole)


def test_a_backup_that_was_cut_off_leaves_nothing_at_the_hub(hub: Hub) -> None:
    hub.insert("one", robots=200, samples=2000)
    run = hub.run["backup"]
    run.folder.mkdir()
    (run.folder / "credentials").write_text(SECRET)
    log = hub.cut_off("backup", plan(destination=hub.plan.destination, rate_max=20_000), "uploading part")
    assert hub.snapshots() == [outcome.snapshot_left(log)]

    metrics = hub.folder / "backup.prom"
    end(hub, metrics, SERVICE_RESULT="signal", EXIT_STATUS="KILL")
    assert hub.snapshots() == []
    assert not run.folder.exists()
    assert not metrics.exists()
    with pytest.raises(BackupError, match=r"vmbackup was killed.*cap of 128M\. Raise backup_memory_max"):
        steps.judge(run, hub.plan, json.loads(run.result.read_text()))
    with pytest.raises(BackupError, match="is not complete: it was cut off"):
        steps.check_source_files(hub.plan)


def end(hub: Hub, metrics: Path, **ended: str) -> None:
    """End a backup as systemd does."""
    run = hub.run["backup"]
    task = {"folder": run.folder, "log": run.log, "result": run.result, "metrics": metrics, "url": hub.url}
    task["written"] = hub.plan.directory
    for name, module in (("end", outcome), ("disk", disk)):
        (hub.folder / f"{name}.py").write_text(inspect.getsource(module))
    command = [sys.executable, hub.folder / "end.py", json.dumps({key: str(value) for key, value in task.items()})]
    subprocess.run(command, check=True, env={**os.environ, **ended})


def test_a_success_is_told_to_node_exporter(hub: Hub) -> None:
    hub.insert("one")
    run = hub.run["backup"]
    run.log.write_text(hub.do("backup", hub.plan))
    metrics = hub.folder / "backup.prom"
    end(hub, metrics, SERVICE_RESULT="success", EXIT_STATUS="0")
    figures = steps.judge(run, hub.plan, json.loads(run.result.read_text()))
    told = dict(line.split() for line in metrics.read_text().splitlines() if not line.startswith("#"))
    assert told["roverwatch_backup_size_bytes"] == str(figures["bytes"])
    assert abs(time.time() - int(told["roverwatch_backup_last_success_timestamp_seconds"])) < 600
    assert metrics.stat().st_mode & 0o777 == 0o644
    assert run.result.stat().st_mode & 0o777 == 0o600


def test_a_backup_that_is_not_there(hub: Hub) -> None:
    log = hub.do("restore", plan(destination=hub.plan.destination, name="nope"), data=hub.folder / "restored")
    result = {"result": "exit-code", "status": "255", "error": outcome.error(log)}
    with pytest.raises(BackupError, match=r"no complete backup in fs://.*/hub-1/latest: .*Correct backup_destination"):
        steps.judge(hub.run["restore"], hub.plan, result)
    hub.insert("one")
    hub.do("backup", hub.plan)
    with pytest.raises(BackupError, match=r"there is no backup in .*/nope \(there are latest\)"):
        steps.check_source_files(plan(destination=hub.plan.destination, name="nope"))


def test_s3_with_an_endpoint_and_a_file_of_credentials(hub: Hub) -> None:
    hub.insert("one", robots=200, samples=2000)
    credentials = hub.folder / "credentials"
    credentials.write_text(
        backup_plan.credentials(
            {"access_key_id": "AKIAROVER", "secret_access_key": SECRET, "region": "eu-central-1"}, "s3"
        )
    )
    with s3.served() as store:
        asked = plan(destination="s3://bucket/fleet", endpoint=store.url)
        log = hub.do("backup", asked, str(credentials))
        assert outcome.figures(log).get("bytes"), log
        assert "/bucket/fleet/hub-1/latest/backup_complete.ignore" in store.objects
        point = plan(destination="s3://bucket/fleet", endpoint=store.url, name="point")
        log += hub.do("backup", point, str(credentials))
        assert store.copied > 0
        restored = hub.folder / "restored"
        log += hub.do("restore", point, str(credentials), restored)
        assert steps.contents(restored).samples == 200 * 2000
        assert all("Credential=AKIAROVER/" in each and "/eu-central-1/" in each for each in store.authorizations)
    assert SECRET not in log
    assert not any(SECRET in arg for arg in hub.command("backup", asked, str(credentials)))


def test_whose_history_a_hub_has(hub: Hub) -> None:
    assert steps.history(hub.url) == ""
    hub.insert("one", robots=7, samples=2)
    expected = "that of 7 robots (robot-0, robot-1, robot-2, robot-3, robot-4, …)"
    binaries.eventually(lambda: steps.history(hub.url) == expected, "the robots are known")


def test_a_hub_that_does_not_answer_has_what_its_files_say(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{binaries.free_port()}"
    assert steps.history(nobody, tmp_path) == ""
    part = tmp_path / "data/small/2026_11/18EA0BB5704F6705"
    part.mkdir(parents=True)
    (part / "metadata.json").write_text("{}")
    assert "does not answer" in steps.history(nobody, tmp_path)


# --- before anything is done, and after


def test_a_snapshot_does_not_count_as_data(tmp_path: Path) -> None:
    for name in ("data/small/a", "snapshots/1/a", "data/snapshots"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    assert steps.size_of(tmp_path) == 10
    assert steps.size_of(tmp_path / "missing") == 0


def test_room_on_the_disk(tmp_path: Path) -> None:
    free = steps.free_bytes(tmp_path / "not" / "there")
    assert free > 0
    steps.check_space(free // 4, tmp_path, "the backup")
    with pytest.raises(BackupError, match=r"the backup needs .* more on the disk of .*Make room there"):
        steps.check_space(free, tmp_path, "the backup")


def test_a_storage_that_is_not_reached() -> None:
    port = binaries.free_port()
    with pytest.raises(
        BackupError, match=r"cannot be reached from here.*Correct backup_destination or backup_endpoint"
    ):
        steps.check_storage(plan(destination="s3://b", endpoint=f"http://127.0.0.1:{port}"))


def test_a_directory_whose_parent_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"there is no .*/mnt here: make it or mount it"):
        steps.check_directory(plan(destination=f"fs://{tmp_path}/mnt/b"), make=True)


def test_a_run_without_a_result_was_cut_off() -> None:
    with pytest.raises(BackupError, match="cut off, as by a restart of the hub: run the playbook once more"):
        steps.judge(RESTORE, plan(), None)


def test_what_the_program_said_is_passed_on() -> None:
    result = {"result": "exit-code", "status": "255", "error": "cannot create backup: access denied"}
    with pytest.raises(BackupError, match=r"exit-code \(255\) and said: cannot create backup: access denied\. Correct"):
        steps.judge(BACKUP, plan(), result)


def test_a_success_that_cannot_be_read_is_none() -> None:
    with pytest.raises(BackupError, match="ended with success"):
        steps.judge(BACKUP, plan(), {"result": "success", "status": "0", "error": ""})
