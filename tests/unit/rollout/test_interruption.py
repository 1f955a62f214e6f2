"""The watch on a robot's services, against a service on loopback that comes and goes."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time

import binaries
import interruption
import pytest


class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_) -> None: ...


def served(port: int) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Ok)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def test_a_gap_is_as_long_as_nobody_answered():
    port, deaf = binaries.free_port(), binaries.free_port()
    asked = json.dumps({"comes": [port, "/"], "deaf": [deaf, "/"], "nobody": None})
    command = [sys.executable, "-I", "-S", "-c", interruption.PROBE, asked]
    server = served(port)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        assert probe.stdout.readline() == "started\n"
        time.sleep(0.3)
        server.shutdown()
        server.server_close()
        stopped = time.time()
        time.sleep(1.2)
        resumed = time.time()
        server = served(port)
        time.sleep(0.5)
        said = json.loads(probe.communicate(timeout=60)[0])
    server.shutdown()
    server.server_close()
    comes, deaf = said["askers"]["comes"], said["askers"]["deaf"]
    slack = said["askers"]["nobody"]["longest"] + 0.5
    [(at, seconds)] = comes["gaps"]
    assert seconds == comes["longest"]
    assert stopped - slack <= at <= stopped + slack
    assert resumed - stopped <= seconds <= resumed - stopped + 2 * slack
    assert 0 < comes["failed"] < comes["probes"]
    assert deaf["failed"] == deaf["probes"] > 0
    assert deaf["longest"] == pytest.approx(said["end"] - said["start"], abs=slack)


EVERY_FIVE = {float(at): 1.0 for at in range(100, 200, 5)}


def without(*times: float) -> dict[float, float]:
    return {at: value for at, value in EVERY_FIVE.items() if at not in times}


@pytest.mark.parametrize(
    ("ups", "found"),
    [
        (EVERY_FIVE, (0, 0)),
        (without(150), (1, 0)),
        (without(145, 150, 155), (3, 0)),
        # At the edges: the neighbour on the other side of it counts.
        (without(125), (1, 0)),
        (without(175), (1, 0)),
        # Beyond them it does not.
        (without(105, 190), (0, 0)),
        (EVERY_FIVE | {150.0: 0.0}, (0, 1)),
        (EVERY_FIVE | {105.0: 0.0, 190.0: 0.0}, (0, 0)),
        # Two seconds late, and the next one in time.
        (without(150) | {152.0: 1.0}, (0, 0)),
        # A second late, and the next one missed.
        (without(140, 145) | {141.0: 1.0}, (1, 0)),
    ],
)
def test_a_scrape_is_missed_where_its_neighbours_are_too_far_apart(ups, found):
    assert interruption.missed_and_failed(ups, 122.0, 178.0, 5.0) == found
