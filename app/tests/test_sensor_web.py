"""Each endpoint, through the WSGI application."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from sensor_helpers import GOOD, Clock, Scripted, sampler_of
from sensor_service import __version__, web
from sensor_service import metrics as metrics_module
from sensor_service.metrics import OWN_SECONDS, Metrics
from sensor_service.readings import Family, Measurement
from sensor_service.sampler import Sampler, SourceSampler
from sensor_service.web import create_app

OPENMETRICS = "application/openmetrics-text"
NAMES = {
    "sensor_requests",
    "sensor_failed",
    "sensor_queue_depth",
    "sensor_readings_dropped",
    "sensor_source_stale",
    "sensor_loop_iterations",
    "sensor_scrape_duration_seconds",
    "sensor_reading",
    "sensor_source_up",
    "sensor_last_sample_timestamp_seconds",
}


class Bench:
    """An app over two sources that are sampled by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.arm = sampler_of(Scripted([GOOD], OSError("no bus")), "arm", clock=self.clock)
        self.leg = sampler_of(
            Scripted([GOOD._replace(value=1.5), Measurement("load", 'a"b\\', 2)]), "leg", clock=self.clock
        )
        self.metrics = Metrics(clock=self.clock)
        self.client: FlaskClient = create_app(Sampler([self.arm, self.leg]), self.metrics).test_client()

    def sample(self, *sources: SourceSampler) -> None:
        for source in sources or (self.arm, self.leg):
            source.sample()

    def scrape(self, accept: str | None = None) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        self.clock.now += OWN_SECONDS  # or its own counters are those of the last scrape
        response = self.client.get("/metrics", headers={"Accept": accept} if accept else {})
        assert response.status_code == 200
        parse = parser if response.content_type.startswith("text/plain") else openmetrics_parser
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse.text_string_to_metric_families(response.text)
            for sample in family.samples
        }


@pytest.fixture(name="bench")
def _bench() -> Iterator[Bench]:
    yield Bench()


def value(samples: dict[Any, float], name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def test_index(bench: Bench) -> None:
    bench.sample(bench.leg)
    seen = bench.client.get("/").json
    assert seen["name"] == "sensor_service"
    assert seen["version"] == __version__
    assert 0 <= seen["uptime_seconds"] < 60
    arm, leg = seen["sources"]
    assert arm == {
        "name": "arm",
        "type": "test",
        "state": "never sampled",
        "error": None,
        "last_sample_timestamp": None,
    }
    assert leg["state"] == "ok"
    assert set(seen["links"].values()) == {"/", "/sensor", "/metrics", "/healthz", "/readyz", "/openapi.json"}
    for link in seen["links"].values():
        assert bench.client.get(link).status_code in (200, 503)


def test_sensor_gives_the_latest_readings(bench: Bench) -> None:
    bench.sample()
    bench.sample(bench.leg)
    readings = bench.client.get("/sensor").json["readings"]
    assert [(item["source"], item["sensor"], item["unit"], item["value"]) for item in readings] == [
        ("arm", "temperature_celsius", "celsius", 21.5),
        ("leg", "temperature_celsius", "celsius", 1.5),
        ("leg", "load", 'a"b\\', 2.0),
    ]
    assert all(item["timestamp"] > 1e9 for item in readings)
    only = bench.client.get("/sensor?source=arm").json["readings"]
    assert only == readings[:1]


def test_sensor_gives_history(bench: Bench) -> None:
    for _ in range(3):
        bench.sample(bench.leg)
    assert len(bench.client.get("/sensor?limit=500").json["readings"]) == 6
    stamps = [item["timestamp"] for item in bench.client.get("/sensor?limit=5&source=leg").json["readings"]]
    assert len(stamps) == 5
    assert stamps == sorted(stamps, reverse=True)
    assert bench.client.get("/sensor?limit=1&source=arm").json == {"readings": []}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=", "limit"),
        ("limit=1.5", "limit"),
        ("limit=-1", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=" + "9" * 6000, "limit"),
        ("limit=1&limit=2", "limit"),
        ("source=nose", "source"),
        ("source=", "source"),
        ("source=%FF", "source"),
        ("soruce=arm", "soruce"),
    ],
)
def test_a_bad_parameter_is_named(bench: Bench, query: str, parameter: str) -> None:
    response = bench.client.get(f"/sensor?{query}")
    assert response.status_code == (404 if parameter == "source" else 400)
    assert response.json["parameter"] == parameter
    assert parameter in response.json["error"]
    assert len(response.data) < 300


def test_health_and_readiness(bench: Bench) -> None:
    def ready() -> tuple[int, Any]:
        response = bench.client.get("/readyz")
        return response.status_code, response.json

    assert bench.client.get("/healthz").status_code == 200
    bench.sample(bench.leg)
    status, body = ready()
    assert status == 503
    assert body["sources"] == [{"name": "arm", "state": "never sampled", "error": None}]
    bench.sample(bench.arm)
    assert ready() == (200, {"status": "ok"})
    bench.clock.now += 5
    bench.sample()
    status, body = ready()
    assert status == 503
    assert body["sources"] == [{"name": "arm", "state": "stale", "error": "OSError: no bus"}]
    assert bench.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("accept", [None, OPENMETRICS])
def test_metrics_say_what_happened(bench: Bench, accept: str | None) -> None:
    bench.sample()
    bench.sample()
    bench.client.get("/nowhere/42")
    bench.client.open("/", method="BREW")
    bench.client.post("/metrics")
    bench.scrape(accept)
    seen = bench.scrape(accept)
    assert value(seen, "sensor_reading", source="leg", sensor="load", unit='a"b\\') == 2
    assert value(seen, "sensor_failed_total", source="arm") == 1
    assert value(seen, "sensor_failed_total", source="leg") == 0
    assert value(seen, "sensor_loop_iterations_total", source="arm") == 2
    assert value(seen, "sensor_queue_depth", source="leg") == 4
    assert value(seen, "sensor_source_up", source="arm") == 0
    assert value(seen, "sensor_source_up", source="leg") == 1
    assert value(seen, "sensor_last_sample_timestamp_seconds", source="leg") == pytest.approx(
        bench.leg.snapshot().timestamp
    )
    assert value(seen, "sensor_requests_total", path="other", method="GET", code="404") == 1
    assert value(seen, "sensor_requests_total", path="/", method="other", code="405") == 1
    assert value(seen, "sensor_requests_total", path="/metrics", method="POST", code="405") == 1
    assert value(seen, "sensor_requests_total", path="/metrics", method="GET", code="200") == 1
    assert value(seen, "sensor_scrape_duration_seconds_count") == 1
    assert any(name == "sensor_build_info" and ("version", __version__) in labels for name, labels in seen)
    names = {name for name, _ in seen}
    assert "process_resident_memory_bytes" in names
    assert not any(name.startswith("python_gc") for name in names)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (f"{OPENMETRICS};version=junk", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (f"{OPENMETRICS},text/plain,*/*", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (f"{OPENMETRICS};q=0.1,text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        (f"{OPENMETRICS};q=0", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_content_negotiation(bench: Bench, accept: str | None, expected: str) -> None:
    response = bench.client.get("/metrics", headers={"Accept": accept} if accept else {})
    assert response.content_type == expected
    assert response.text.endswith("# EOF\n") == ("openmetrics" in expected)
    assert response.text.count("# EOF") <= 1


def test_every_family_has_help_and_the_fixed_names(bench: Bench) -> None:
    bench.sample()
    families = list(parser.text_string_to_metric_families(bench.client.get("/metrics").text))
    assert {family.name for family in families} >= NAMES
    assert all(family.documentation for family in families)


def test_a_stale_source_has_no_readings(bench: Bench) -> None:
    bench.sample()
    assert value(bench.scrape(), "sensor_reading", source="arm", sensor=GOOD.sensor, unit=GOOD.unit) == 21.5
    bench.clock.now += 5
    seen = bench.scrape()
    assert not [key for key in seen if key[0] == "sensor_reading"]
    assert value(seen, "sensor_source_up", source="arm") == 0


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/x", 404), ("DELETE", "/sensor", 405)])
def test_errors_are_json(bench: Bench, method: str, path: str, code: int) -> None:
    response = bench.client.open(path, method=method)
    assert response.status_code == code
    assert response.json["path"] == path
    if code == 405:
        assert "GET" in response.headers["Allow"]


def test_a_crash_shows_no_trace(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "snapshots", lambda _self: 1 / 0)
    response = bench.client.get("/readyz")
    assert response.status_code == 500
    assert response.json == {"error": "Internal Server Error", "path": "/readyz"}
    monkeypatch.undo()
    assert value(bench.scrape(), "sensor_requests_total", path="/readyz", method="GET", code="500") == 1


def test_two_apps_share_nothing() -> None:
    first, second = Bench(), Bench()
    first.client.get("/healthz")
    assert value(second.scrape(), "sensor_requests_total", path="/healthz", method="GET", code="200") is None


def test_a_family_is_rendered_under_its_own_name_with_its_own_labels() -> None:
    memory = Family("container_memory_rss", "gauge", "bytes", "Anonymous memory.", ("name",))
    oom = Family("container_oom_events_total", "counter", "events", "Kills.", ("name",))
    energy = Family("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "unknown", "mJ", "Energy.", ("gpu",))

    class Named(Scripted):
        families = (memory, oom, energy)

    source = sampler_of(
        Named([memory.measure(5, "a"), memory.measure(6, "b"), oom.measure(1, "a"), energy.measure(7, "0"), GOOD])
    )
    source.sample()
    metrics = Metrics()
    for as_openmetrics, parse in ((False, parser), (True, openmetrics_parser)):
        text = metrics.render([source.snapshot()], as_openmetrics)[0].decode()
        families = {family.name: family for family in parse.text_string_to_metric_families(text)}
        samples = {
            (one.name, *sorted(one.labels.values())): one.value
            for family in families.values()
            for one in family.samples
        }
        assert samples["container_memory_rss", "a"] == 5
        assert samples["container_memory_rss", "b"] == 6
        assert samples["container_oom_events_total", "a"] == 1
        assert samples["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "0"] == 7
        assert samples["sensor_reading", GOOD.unit, "probe", GOOD.sensor] == 21.5
        assert families["container_oom_events"].type == "counter"


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).filter(str.isprintable),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=5,
    )
)
def test_every_accepted_reading_survives_both_formats(sensors: dict[str, float]) -> None:
    source = sampler_of(Scripted([Measurement(sensor, "volts", value) for sensor, value in sensors.items()]))
    source.sample()
    for as_openmetrics, parse in ((False, parser), (True, openmetrics_parser)):
        text = Metrics().render([source.snapshot()], as_openmetrics)[0].decode()
        seen = {
            one.labels["sensor"]: one.value
            for family in parse.text_string_to_metric_families(text)
            for one in family.samples
            if one.name == "sensor_reading"
        }
        assert seen == sensors


def test_each_family_is_one_group_whichever_sources_it_is_from(bench: Bench) -> None:
    bench.sample()
    text = bench.client.get("/metrics").text
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))


def test_only_the_source_with_a_new_sample_is_rendered_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []
    families = metrics_module._families
    monkeypatch.setattr(
        metrics_module, "_families", lambda snapshot: rendered.append(snapshot.name) or families(snapshot)
    )
    for _ in range(3):
        bench.scrape()
        bench.scrape(OPENMETRICS)
    assert rendered == ["arm", "leg"] * 2
    bench.sample(bench.leg)
    bench.scrape()
    assert rendered[4:] == ["leg"]


def test_its_own_counters_are_never_older_than_promised(bench: Bench) -> None:
    def requests() -> float | None:
        samples = parser.text_string_to_metric_families(bench.client.get("/metrics").text)
        return next(
            (one.value for family in samples for one in family.samples if one.labels.get("path") == "/healthz"), None
        )

    requests()
    bench.client.get("/healthz")
    assert requests() is None
    bench.clock.now += OWN_SECONDS
    assert requests() == 1


def test_the_latest_readings_are_rendered_once_per_sample(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[set[str]] = []
    to_json = web._json
    monkeypatch.setattr(web, "_json", lambda items: rendered.append({one.source for one in items}) or to_json(items))
    bench.sample()
    for _ in range(3):
        bench.client.get("/sensor")
    assert rendered == [{"arm"}, {"leg"}]
    bench.sample(bench.leg)
    assert len(bench.client.get("/sensor").json["readings"]) == 3
    assert rendered[2:] == [{"leg"}]


def test_debug_is_off_unless_enabled(bench: Bench) -> None:
    assert bench.client.get("/debug").status_code == 404
    client = create_app(Sampler([bench.arm]), bench.metrics, debug=True).test_client()
    bench.sample(bench.arm)
    seen = client.get("/debug").json
    assert seen["sources"][0]["iterations"] == 1
    (this,) = [thread for thread in seen["threads"] if thread["name"] == threading.current_thread().name]
    assert any("test_debug_is_off_unless_enabled" in line for line in this["stack"])


def test_the_description_names_every_route_and_the_version(bench: Bench) -> None:
    client = create_app(Sampler([bench.arm]), bench.metrics, debug=True).test_client()
    described = client.get("/openapi.json").json
    assert described["info"]["version"] == __version__
    assert set(described["paths"]) == set(client.get("/").json["links"].values())
