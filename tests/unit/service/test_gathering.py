"""vmagent gathers samples before it sends them: at a stop it sends what it has. To whom, IPv6 alone included."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import binaries
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.query import probe, promql


def of_itself(folder: Path, agent: str) -> Path:
    """A configuration that has vmagent scrape itself, often."""
    path = folder / "scrape.yml"
    path.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: vmagent, static_configs: [{{targets: ['{agent}']}}]}}]\n"
    )
    return path


def test_what_was_gathered_is_sent_at_a_stop(tmp_path: Path) -> None:
    agent = f"127.0.0.1:{binaries.free_port()}"
    with binaries.victoriametrics(tmp_path) as url:
        flags = [
            f"-httpListenAddr={agent}",
            f"-promscrape.config={of_itself(tmp_path, agent)}",
            "-remoteWrite.flushInterval=2m",
        ]
        flags += [f"-remoteWrite.url={url}/api/v1/write", f"-remoteWrite.tmpDataPath={tmp_path / 'queue'}"]
        flags += ["-remoteWrite.maxRowsPerBlock=1000000", "-remoteWrite.maxBlockSize=64MiB"]
        with binaries.running("vmagent", flags, f"http://{agent}/health"):
            binaries.eventually(lambda: scrapes(agent) >= 10, "no scrapes")
            assert promql.query(url, "count_over_time(up[5m])", 5) == []
        found = binaries.eventually(lambda: promql.query(url, "count_over_time(up[5m])", 5), "nothing was sent")
    assert found[0].value >= 9


class Hub(HTTPServer):
    """One that has no address of IPv4."""

    address_family = socket.AF_INET6

    def __init__(self) -> None:
        self.reached = threading.Event()
        reached = self.reached

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()
                reached.set()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("::1", 0), Handler)


def test_a_hub_with_no_address_of_ipv4_is_sent_to(tmp_path: Path) -> None:
    """Preflight reaches it, so vmagent has to, whatever it listens on itself."""
    (task,) = yaml.safe_load((Path(__file__).parents[3] / "roles/vmagent/tasks/main.yml").read_text())
    of_role = [arg for arg in task["roverwatch.fleet.binary_service"]["args"] if arg.startswith("-enableTCP6")]
    agent = f"127.0.0.1:{binaries.free_port()}"
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        flags = [f"-httpListenAddr={agent}", f"-promscrape.config={of_itself(tmp_path, agent)}", *of_role]
        flags += [f"-remoteWrite.url=http://[::1]:{hub.server_port}/", f"-remoteWrite.tmpDataPath={tmp_path / 'queue'}"]
        with binaries.running("vmagent", flags, f"http://{agent}/health"):
            assert hub.reached.wait(15)
    finally:
        hub.shutdown()
        hub.server_close()


def scrapes(agent: str) -> int:
    """How many it has done."""
    _, body = probe.http_get(f"http://{agent}/metrics", 5)
    (line,) = [line for line in body.splitlines() if line.startswith("vm_promscrape_scrape_requests_total ")]
    return int(line.split()[-1])
