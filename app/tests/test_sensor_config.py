"""The configuration: what is accepted, and what a user is told about the rest."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_service import config
from sensor_service.options import ConfigError
from sensor_service.sources import SOURCES, Source, source_class
from sensor_service.sources.simulated import SimulatedOptions

FULL = """
listen = "[::1]:9000"
log_level = "INFO"

[[sources]]
type = "simulated"
name = "arm"
interval_seconds = 2
timeout_seconds = 0.5
[sources.options]
seed = 7
sensors = ["battery_volts"]

[[sources]]
type = "simulated"
"""


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    return tmp_path / "sensor.toml"


def errors_of(file: Path | None, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.load(file, environment or {})
    return caught.value.errors


def parse(table: dict[str, object]) -> tuple[config.Config | None, list[str]]:
    errors: list[str] = []
    return config._parse(table, errors), errors


def test_without_a_file_one_simulated_source_runs() -> None:
    settings = config.load(None, {})
    assert settings == config.Config(
        "127.0.0.1:8000",
        "WARNING",
        False,
        (config.SourceConfig("simulated", "simulated", 1.0, 1.0, 500, SimulatedOptions()),),
    )


def test_a_full_file(file: Path) -> None:
    file.write_text(FULL)
    settings = config.load(file, {})
    assert (settings.listen, settings.log_level) == ("[::1]:9000", "INFO")
    first, second = settings.sources
    assert first == config.SourceConfig(
        "simulated", "arm", 2.0, 0.5, 500, SimulatedOptions(seed=7, sensors=("battery_volts",))
    )
    assert isinstance(first.interval_seconds, float)
    assert second.name == "simulated"


def test_the_environment_wins_over_the_file(file: Path) -> None:
    file.write_text(FULL)
    settings = config.load(file, {"SENSOR_LISTEN": "0.0.0.0:1", "SENSOR_LOG_LEVEL": "DEBUG", "SENSOR_DEBUG": "true"})
    assert (settings.listen, settings.log_level, settings.debug) == ("0.0.0.0:1", "DEBUG", True)


def test_the_environment_is_checked_like_the_file() -> None:
    assert errors_of(None, {"SENSOR_DEBUG": "yes"}) == ["environment: SENSOR_DEBUG = 'yes': must be true or false"]


def test_all_errors_come_at_once_and_name_key_value_and_what_is_allowed(file: Path) -> None:
    file.write_text(
        """
        listen = "nowhere"
        colour = "red"
        [[sources]]
        type = "simulated"
        interval_seconds = -1
        timeout_seconds = "1s"
        [sources.options]
        seed = true
        sensors = ["smell"]
        hue = 3
        [[sources]]
        type = "lidar"
        [[sources]]
        name = "x"
        """
    )
    errors = errors_of(file, {"SENSOR_LOG_LEVEL": "loud"})
    said = {error.removeprefix(f"{file}: ").split(" = ")[0].split(":")[0]: error for error in errors}
    assert said.keys() == {
        "listen",
        "colour",
        "sources[0].interval_seconds",
        "sources[0].timeout_seconds",
        "sources[0].options.seed",
        "sources[0].options.sensors",
        "sources[0].options.hue",
        "sources[1].type",
        "sources[2].type",
        "environment",
    }
    assert said["listen"] == (
        f'{file}: listen = \'nowhere\': must be "host:port" or "[ipv6]:port" '
        "with a port from 0 to 65535 (0 takes any free one)"
    )
    assert said["colour"].endswith("unknown key; known here: debug, listen, log_level, sources")
    assert said["sources[0].interval_seconds"].endswith(" = -1: must be a number from 0.1 to 3600")
    assert said["sources[0].timeout_seconds"].endswith(" = '1s': must be a number from 0.05 to 600")
    assert "= true: must be a whole number from 0" in said["sources[0].options.seed"]
    assert "out of temperature_celsius, battery_volts" in said["sources[0].options.sensors"]
    assert said["sources[1].type"].endswith(f"must be a string out of {', '.join(sorted(SOURCES))}")
    assert "missing; must be" in said["sources[2].type"]
    assert said["environment"].startswith("environment: SENSOR_LOG_LEVEL = 'loud': must be a string out of")


def test_two_sources_cannot_share_a_name(file: Path) -> None:
    file.write_text('[[sources]]\ntype = "simulated"\n' * 2)
    assert errors_of(file) == [f"{file}: sources[1].name = 'simulated': taken by another source"]


def test_a_source_with_fixed_names_may_occur_once(file: Path) -> None:
    file.write_text('[[sources]]\ntype = "process"\n[[sources]]\ntype = "process"\nname = "other"\n')
    assert errors_of(file) == [f"{file}: sources[1].type = 'process': may occur once, its metrics have fixed names"]


# What has no default that would be right anywhere.
REQUIRED = {"tasmota": {"host": "127.0.0.1"}}


@pytest.mark.parametrize("name", SOURCES)
def test_what_would_make_the_same_series_twice_may_occur_once(name: str) -> None:
    found = source_class(name)
    assert found.single == bool(found.families or tuple(found(found.Options(**REQUIRED.get(name, {}))).collectors))


def test_a_source_whose_extra_is_not_installed_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_class("simulated"), "extra", ("no_such_package", "lidar"))
    file.write_text('[[sources]]\ntype = "simulated"\n')
    assert errors_of(file) == [
        f"{file}: sources[0].type = 'simulated': needs no_such_package, which is not here; install the extra lidar"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"listen = ", "is not valid TOML"),
        (b"listen = '\xff'", "is not UTF-8"),
        (b"[sources]\ntype = 'simulated'", "must be at least one [[sources]] table"),
        (b"sources = []", "must be at least one [[sources]] table"),
        (b"[[sources]]\ntype = 'simulated'\noptions = 1", "sources[0].options = 1: must be a table"),
        (b"seed = " + b"9" * 5000, "is not valid TOML"),
        (b"[[sources]]\ntype = 'simulated'\ninterval_seconds = nan", "interval_seconds = nan: must be"),
        (b"[[sources]]\ntype = 'simulated'\nname = 'A b'", "name = 'A b': must be 1 to 63 of a-z"),
    ],
)
def test_unusable_files(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    (error,) = errors_of(file)
    assert error.startswith(f"{file}: ")
    assert message in error


def test_a_missing_file(file: Path) -> None:
    assert errors_of(file) == [f"{file}: cannot be read: No such file or directory"]


@pytest.mark.parametrize("name", SOURCES)
def test_every_registered_source_can_be_made_from_its_defaults(name: str) -> None:
    found = source_class(name)
    assert issubclass(found, Source)
    assert isinstance(found(found.Options(**REQUIRED.get(name, {}))), Source)


@given(st.floats(0.1, 3600) | st.integers(1, 3600))
def test_every_interval_in_range_is_taken_as_it_is(interval: float) -> None:
    settings, errors = parse({"sources": [{"type": "simulated", "interval_seconds": interval}]})
    assert errors == []
    assert settings is not None
    assert settings.sources[0].interval_seconds == interval


@given(
    st.one_of(
        st.floats(max_value=0.0999),
        st.floats(min_value=3600.001),
        st.just(float("nan")),
        st.booleans(),
        st.text(),
        st.lists(st.integers()),
    )
)
def test_every_other_interval_is_refused_by_name(interval: object) -> None:
    settings, errors = parse({"sources": [{"type": "simulated", "interval_seconds": interval}]})
    assert settings is None
    assert [error.split(" = ")[0] for error in errors] == ["sources[0].interval_seconds"]


@given(st.text(string.ascii_lowercase, min_size=1), st.integers())
def test_every_unknown_key_is_refused_by_name(key: str, value: int) -> None:
    if key in ("listen", "sources", "debug"):
        return
    _, errors = parse({key: value})
    assert len(errors) == 1
    assert errors[0].startswith(f"{key} = ")


TOML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["listen", "log_level", "sources", "x"]), TOML_VALUES))
def test_no_table_makes_it_crash(table: dict[str, object]) -> None:
    settings, errors = parse(table)
    assert (settings is None) == bool(errors)


@given(st.from_regex(r"[a-z0-9.]{1,20}", fullmatch=True), st.integers(0, 65535))
def test_listen_takes_host_and_port_apart(host: str, port: int) -> None:
    assert config.split_listen(f"{host}:{port}") == (host, port)
    assert config.split_listen(f"[::1]:{port}") == ("::1", port)


@pytest.mark.parametrize("listen", ["", ":8000", "8000", "host:", "host:65536", "::1:80", "h:8o", "h:٣", "h:-1"])
def test_what_is_no_address(listen: str) -> None:
    with pytest.raises(ValueError):
        config.split_listen(listen)
