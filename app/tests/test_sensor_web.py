"""Each endpoint, through the WSGI application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from sensor_helpers import GOOD, Clock, Scripted, sampler_of
from sensor_service import __version__
from sensor_service.metrics import Metrics
from sensor_service.sampler import Sampler, SourceSampler
from sensor_service.web import create_app

OPENMETRICS = "application/openmetrics-text"
NAMES = {
    "sensor_requests",
    "sensor_failed",
    "sensor_queue_depth",
    "sensor_cpu_spike_seconds",
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
        self.leg = sampler_of(Scripted([GOOD._replace(value=1.5), ("load", 'a"b\\', 2)]), "leg", clock=self.clock)
        self.metrics = Metrics()
        self.client: FlaskClient = create_app(Sampler([self.arm, self.leg]), self.metrics).test_client()

    def sample(self, *sources: SourceSampler) -> None:
        for source in sources or (self.arm, self.leg):
            source.sample()

    def scrape(self, accept: str | None = None) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
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
    assert set(seen["links"].values()) == {"/", "/sensor", "/metrics", "/healthz", "/readyz"}
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
    assert response.status_code == 400
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
    assert value(seen, "sensor_cpu_spike_seconds_count") == 0
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


def test_readings_are_rendered_once_per_sample_in_each_format(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[object] = []
    from sensor_service import metrics  # noqa: PLC0415  (what is patched)

    collect = metrics._Sampled.collect
    monkeypatch.setattr(metrics._Sampled, "collect", lambda self: rendered.append(self) or collect(self))
    for _ in range(3):
        bench.scrape()
        bench.scrape(OPENMETRICS)
    assert len(rendered) == 2
    bench.sample(bench.leg)
    bench.scrape()
    assert len(rendered) == 3


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
