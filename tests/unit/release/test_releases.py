"""The releases that the tests of rolling updates deploy: each is good or bad in the way that it is said to be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import binaries
import pytest
import releases
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import MissingArtifact, Store
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import images
from jinja2 import Environment
from sensor_service import config
from sensor_service.sources import Source, source_class

VARIABLES = releases.ROOT / "roles/sensor_service/vars/main.yml"
PATIENCE_SECONDS = 60
CAP = 80 << 20


@pytest.fixture(scope="module")
def variables() -> dict[str, dict[str, Any]]:
    """By release; the store is the one that the Molecule scenario uses, and made once for both."""
    try:
        prepared = releases.prepare()
    except MissingArtifact as error:
        pytest.skip(str(error))
    return {release: json.loads(arguments[1]) for release, arguments in prepared.items()}


def sources(variables: dict[str, Any], folder: Path) -> dict[str, Source]:
    """The sources that a release samples, from the configuration that its role writes."""
    environment = Environment()
    environment.filters |= {"to_json": json.dumps, "bool": bool, "roverwatch.fleet.listen_on": rules.listen_on}
    template = yaml.safe_load(VARIABLES.read_text())["__sensor_service_config"]
    toml = folder / "config.toml"
    toml.write_text(
        environment.from_string(template.replace("@port@", "8000")).render(
            variables,
            sensor_service_allow_from=[],
            sensor_service_log_level="WARNING",
            sensor_service_debug=False,
        )
    )
    return {source.name: source_class(source.type)(source.options) for source in config.load(toml, {}).sources}


@pytest.mark.parametrize(
    ("name", "variable", "named"),
    [
        ("sensor", "sensor_service_version", ["sensor_crashes", "sensor_good", "sensor_leaks"]),
        ("vmagent", "vmagent_version", ["vmagent_good"]),
    ],
)
def test_each_version_is_in_the_store_and_differs_from_the_pinned_one(variables, name, variable, named):
    store = Store(releases.STORE)
    base = releases.pinned(store, name)
    asked = {release: given[variable] for release, given in variables.items() if variable in given}
    assert sorted(asked) == named
    found = [base, *(store.find(name, version, base.arch) for version in asked.values())]
    for entry in found:
        store.verify(entry)
        if entry.kind == "image":
            assert images.image_id_of(store.path(entry)) == entry.image_id
    for key in ("version", "sha256", "file"):
        assert len({getattr(entry, key) for entry in found}) == len(found), key


def test_the_store_has_what_every_other_service_needs(variables):
    assert set(Store(releases.ARTIFACTS).entries()) <= set(Store(releases.STORE).entries())


def test_nothing_is_made_twice(variables, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no engine
    before = (releases.STORE / "manifest.json").stat()
    assert {release: json.loads(arguments[1]) for release, arguments in releases.prepare().items()} == variables
    assert (releases.STORE / "manifest.json").stat() == before


def test_other_artifacts_make_another_store(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    before = releases._inputs(tmp_path)
    assert releases._inputs(tmp_path) == before
    (tmp_path / "manifest.json").write_text("{ }")
    assert releases._inputs(tmp_path) != before


def test_the_other_vmagent_runs(variables, tmp_path):
    store = Store(releases.STORE)
    pinned = releases.pinned(store, "vmagent")
    vmagent = store.path(store.find("vmagent", variables["vmagent_good"]["vmagent_version"], pinned.arch))
    (tmp_path / "scrape.yml").write_text("scrape_configs: []\n")
    arguments = ["-dryRun", f"-promscrape.config={tmp_path / 'scrape.yml'}", "-remoteWrite.url=http://127.0.0.1:9/"]
    subprocess.run([vmagent, *arguments], check=True, capture_output=True, cwd=tmp_path)


def test_one_source_never_gives_its_first_sample(variables, tmp_path):
    found = sources(variables["sensor_never_ready"], tmp_path)
    with pytest.raises(Exception, match=r"127\.0\.0\.1 port 9: Connection refused"):
        found["tasmota"].sample(1)


def test_every_second_sample_of_one_source_fails(variables, tmp_path):
    failing = sources(variables["sensor_errors"], tmp_path)["simulated"]

    def fails() -> bool:
        try:
            failing.sample(1)
        except Exception:  # noqa: BLE001
            return True
        return False

    assert [fails() for _ in range(6)] == [False, True] * 3


# --- what is in the images


def faulty(fault: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(releases.ROOT / "app/src"), "FAULT": fault}
    command = [sys.executable, str(releases.HERE / "faulty.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def settings(tmp_path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(f'listen = "127.0.0.1:{binaries.free_port()}"\n')
    return file


@pytest.mark.parametrize("fault", releases.FAULTS.values())
def test_a_check_of_the_configuration_finds_no_fault(fault, settings):
    with faulty(fault, "--check-config", str(settings)) as process:
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, said) == (0, f"{settings}: ok\n")


def test_one_ends_after_its_first_line(settings):
    with faulty("crash", "--config", str(settings)) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert [json.loads(line)["message"] for line in said.splitlines()] == ["this release cannot start"]


def test_one_takes_memory_once_it_is_ready(settings):
    """More than its cap, all of it written to: the service itself has a quarter of that."""
    with faulty("leak", "--config", str(settings)) as process:
        statm = Path(f"/proc/{process.pid}/statm")
        try:
            binaries.eventually(
                lambda: int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > CAP, "it does not grow"
            )
        finally:
            process.kill()
