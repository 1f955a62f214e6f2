"""vmagent gathers samples before it sends them: at a stop it sends what it has."""

from __future__ import annotations

from pathlib import Path

import binaries
from roverwatch import probe, promql


def test_what_was_gathered_is_sent_at_a_stop(tmp_path: Path) -> None:
    agent = f"127.0.0.1:{binaries.free_port()}"
    config = tmp_path / "scrape.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: vmagent, static_configs: [{{targets: ['{agent}']}}]}}]\n"
    )
    with binaries.victoriametrics(tmp_path) as url:
        flags = [f"-httpListenAddr={agent}", f"-promscrape.config={config}", "-remoteWrite.flushInterval=2m"]
        flags += [f"-remoteWrite.url={url}/api/v1/write", f"-remoteWrite.tmpDataPath={tmp_path / 'queue'}"]
        flags += ["-remoteWrite.maxRowsPerBlock=1000000", "-remoteWrite.maxBlockSize=64MiB"]
        with binaries.running("vmagent", flags, f"http://{agent}/health"):
            binaries.eventually(lambda: scrapes(agent) >= 10, "no scrapes")
            assert promql.query(url, "count_over_time(up[5m])", 5) == []
        found = binaries.eventually(lambda: promql.query(url, "count_over_time(up[5m])", 5), "nothing was sent")
    assert found[0].value >= 9


def scrapes(agent: str) -> int:
    """How many it has done."""
    _, body = probe.http_get(f"http://{agent}/metrics", 5)
    (line,) = [line for line in body.splitlines() if line.startswith("vm_promscrape_scrape_requests_total ")]
    return int(line.split()[-1])
