from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import units

UNIT = "[Service]\nEnvironment=ROVERWATCH_REVISION=@revision@\n"
SCRAPE = {"target": "127.0.0.1:8429", "job": "vmagent", "keep": "vmagent_.+", "sample_limit": 20, "series_limit": 40}
CONFIG = units.File(Path("/etc/roverwatch/vmagent/scrape.yml"), "global: {}\n")


def test_the_unit_lands_last_and_carries_the_revision():
    files = units.layout("roverwatch-vmagent", UNIT, [CONFIG], {"kind": "binary"}, SCRAPE)
    assert [str(file.path) for file in files] == [
        "/etc/roverwatch/vmagent/scrape.yml",
        "/etc/roverwatch/services.d/roverwatch-vmagent.json",
        "/etc/roverwatch/scrape.d/roverwatch-vmagent.yml",
        "/etc/systemd/system/roverwatch-vmagent.service",
    ]
    assert json.loads(files[1].content) == {"unit": "roverwatch-vmagent", "kind": "binary"}
    assert f"ROVERWATCH_REVISION={units.revision(UNIT, [CONFIG])}\n" in files[-1].content


@pytest.mark.parametrize(
    ("unit", "configs"),
    [
        (UNIT + "MemoryMax=1\n", [CONFIG]),
        (UNIT, [units.File(CONFIG.path, "global: {scrape_interval: 5s}\n")]),
        (UNIT, []),
    ],
)
def test_whatever_the_process_reads_changes_the_revision(unit, configs):
    assert units.revision(unit, configs) != units.revision(UNIT, [CONFIG])


def test_what_it_does_not_read_does_not():
    other = units.layout("u", UNIT, [CONFIG], {"memory_max": 2}, SCRAPE)
    assert other[-1] == units.layout("u", UNIT, [CONFIG], {"memory_max": 1}, {})[-1]


def test_a_unit_brings_a_whole_scrape_config():
    assert units.scrape_configs("roverwatch-vmagent", SCRAPE) == [
        {
            "job_name": "roverwatch-vmagent",
            "static_configs": [{"targets": ["127.0.0.1:8429"], "labels": {"job": "vmagent"}}],
            "metric_relabel_configs": [{"action": "keep", "source_labels": ["__name__"], "regex": "vmagent_.+"}],
            "sample_limit": 20,
            "series_limit": 40,
        }
    ]
    assert units.scrape_configs("roverwatch-vmagent", {}) == []


def test_the_running_revision_is_read_from_the_environment_of_the_process():
    assert units.running_revision(b"A=1\0ROVERWATCH_REVISION=abc\0HOME=/\0") == "abc"
    assert units.running_revision(b"A=1\0") is None


def test_a_file_differs_by_content_mode_or_absence(tmp_path):
    same, edited, opened, absent = (
        units.File(tmp_path / name, "text\n") for name in ("same", "edited", "opened", "absent")
    )
    for file in (same, edited, opened):
        file.path.write_text(file.content)
        file.path.chmod(0o644)
    edited.path.write_text("other\n")
    opened.path.chmod(0o666)
    assert units.differing([same, edited, opened, absent]) == [edited, opened, absent]


def test_the_first_process_of_a_container_is_found_in_the_groups_below(tmp_path):
    (tmp_path / "container").mkdir()
    (tmp_path / "cgroup.procs").write_text("")
    assert units.first_process(tmp_path) is None
    (tmp_path / "container" / "cgroup.procs").write_text("812\n807\n")
    assert units.first_process(tmp_path) == 807
