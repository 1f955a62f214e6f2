"""Who gets in at a hub, and what they may do there."""

from __future__ import annotations

import re
import ssl
import time

import fleet
import gateway
import pytest

testinfra_hosts = ["ansible://hub-1"]

# Unit, its cap in bytes.
CAPS = {
    "roverwatch-victoriametrics": 640 << 20,
    "roverwatch-vmauth": 64 << 20,
    "roverwatch-vmalert": 64 << 20,
    "roverwatch-alertmanager": 64 << 20,
    "roverwatch-node-exporter": 32 << 20,
}


@pytest.fixture
def robot(host):
    return host.get_host("ansible://robot-1", ansible_inventory=str(fleet.INVENTORY), sudo=True)


def test_the_kernel_enforces_the_budget_and_every_cap(host):
    for unit, cap in CAPS.items():
        *own, (path, budget) = fleet.cgroups(host, fleet.worker_pid(host, unit))
        assert path.endswith(fleet.SLICE)
        assert budget == 1 << 30
        assert min(limit for _, limit in own if limit is not None) == cap, f"{unit}: {own}"


@pytest.mark.parametrize("unit", list(CAPS))
def test_every_service_is_sandboxed(host, unit):
    exposure = float(re.search(r"level for .*: ([\d.]+)", host.check_output(f"systemd-analyze security {unit}"))[1])
    print(f"{unit}: systemd-analyze security {exposure}")
    assert exposure <= 2.5
    status = host.file(f"/proc/{fleet.worker_pid(host, unit)}/status").content_string
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)


def test_nothing_but_the_gateway_is_reachable(host, robot):
    listening = set(host.check_output("ss -Hltn | awk '{print $4}'").split())
    ports = {socket.rsplit(":", 1)[1] for socket in listening if not socket.startswith(("127.0.0.1:", "127.0.0.11:"))}
    assert ports == {"22", "8427"}
    for port, reachable in {8427: True, 8425: False, 8426: False, 8428: False, 8880: False, 9093: False}.items():
        assert (robot.run(f"timeout 3 bash -c '</dev/tcp/hub-1/{port}'").rc == 0) is reachable, port


def test_a_robot_can_write_and_nothing_else():
    assert gateway.as_robot("hub-1", "robot-1", "/api/v1/write", "").status == 204
    for path in (
        "/api/v1/query?query=up",
        "/prometheus/api/v1/query?query=up",
        "/api/v1/export?match[]=up",
        "/api/v1/series?match[]=up",
        "/api/v1/admin/tsdb/delete_series?match[]=up",
        "/snapshot/create",
        "/internal/force_flush",
        "/metrics",
        "/vmui/",
        "/api/v1/write/../query?query=up",
        "/api/v1/import/prometheus",
        "/api/v1/import/native",
    ):
        answer = gateway.as_robot("hub-1", "robot-1", path)
        assert answer.status == 400, path
        assert "missing route" in answer.body, path


def test_a_robot_writes_as_itself_whatever_it_says(robot):
    """A sample that says it is of robot 2 arrives as robot 1: refusing it would cost the rest of its block, too."""
    stamp = int(time.time() * 1000) - 5000
    lies = {"robot": "robot-2", "fleet": "another", "site": "elsewhere"}
    forged = {"metric": {"__name__": "forged_sample", **lies}, "values": [1], "timestamps": [stamp]}
    send = f"""
import base64, json, ssl, urllib.request as u
password = open('/etc/roverwatch/vmagent/secrets/hub_password').read()
url = 'https://hub-1:8427/api/v1/import?extra_label=robot=robot-2&extra_label=fleet=another'
request = u.Request(url, json.dumps({forged!r}).encode())
request.add_header('Authorization', 'Basic ' + base64.b64encode(('robot-1:' + password).encode()).decode())
print(u.urlopen(request, context=ssl.create_default_context(cafile='/etc/roverwatch/vmagent/hub-ca.pem')).status)
"""
    assert fleet.python(robot, send).strip() == "204"
    arrived = f"tlast_over_time(forged_sample[5m]) == {stamp / 1000}"
    assert fleet.eventually(lambda: gateway.rows("hub-1", arrived), 30)
    truth = {"robot": "robot-1", "fleet": "lab", "site": "docker"}
    assert gateway.rows("hub-1", arrived) == [truth]


def test_a_flood_of_series_is_stopped_and_told(robot):
    """Through one robot's credential. What the hub knows goes on; which robot it was is in the health report."""
    flood = """
import base64, json, ssl, time, urllib.request as u
password = open('/etc/roverwatch/vmagent/secrets/hub_password').read()
stamp = int(time.time() * 1000)
lines = (json.dumps({'metric': {'__name__': 'flood', 'id': str(n)}, 'values': [1], 'timestamps': [stamp]})
         for n in range(100_000))
request = u.Request('https://hub-1:8427/api/v1/import', chr(10).join(lines).encode())
request.add_header('Authorization', 'Basic ' + base64.b64encode(('robot-1:' + password).encode()).decode())
print(u.urlopen(request, context=ssl.create_default_context(cafile='/etc/roverwatch/vmagent/hub-ca.pem')).status)
"""
    try:
        assert fleet.python(robot, flood).strip() == "204"
        dropped = "sum(vm_daily_series_limit_rows_dropped_total{robot=''}) > 0"
        assert fleet.eventually(lambda: gateway.rows("hub-1", dropped), 90, 2)
        taken = float(fleet.series(fleet.container("hub-1"), "count(last_over_time(flood[10m]))")[0]["value"][1])
        assert taken < 20_000, "the limit is 10,000 and 1,000 for each robot"
        before = time.time()
        fresh = "min(tlast_over_time(up{robot!=''}[5m]))"
        assert fleet.eventually(
            lambda: float(fleet.series(fleet.container("hub-1"), fresh)[0]["value"][1]) > before, 60, 2
        ), "robots that were known are no longer heard of"
        # Delivered; the series of a new alert is one that the hub does not take any more.
        assert fleet.eventually(lambda: "firing" in fleet.received("SeriesLimit", hub="hub-1"), 90, 2)
        health = fleet.playbook("health.yml", "--limit", "hubs")
        assert health.rc != 0
        assert "there are too many in 24 hours; robot-1 has the most" in health.output
    finally:
        # The limit counts from the start of the process; the alert and the line would last for a quarter of an hour.
        fleet.docker("exec", fleet.container("hub-1"), "systemctl", "restart", "roverwatch-victoriametrics")
        # The gateway asks a database that was away again after three seconds.
        assert fleet.eventually(lambda: gateway.as_robot("hub-1", "robot-1", "/api/v1/write", "").status == 204, 30)


def test_a_robot_with_another_robots_name_or_no_password_gets_nowhere():
    for user, password in [
        ("robot-2", gateway.robot_password("robot-1")),
        ("operator", gateway.robot_password("operator")),
        ("robot-1", ""),
        ("robot-1", gateway.robot_password("robot-1")[:-1]),
        ("", ""),
    ]:
        for path in ("/api/v1/write", "/api/v1/query?query=up", "/metrics", "/-/reload"):
            assert gateway.ask("hub-1", path, "", user=user, password=password).status == 401, (user, path)


def test_a_reader_can_query_and_nothing_else():
    assert {row["robot"] for row in gateway.rows("hub-1", 'count(up{robot!=""}) by (robot)')} == {"robot-1", "robot-2"}
    assert gateway.as_reader("hub-1", "/prometheus/api/v1/labels").status == 200
    assert gateway.as_reader("hub-1", "/api/v1/label/robot/values").status == 200
    assert gateway.as_reader("hub-1", "/vmui/custom-dashboards").status == 200
    assert gateway.as_reader("hub-1", "/api/v1/rules").status == 200
    for path in (
        "/api/v1/write",
        "/prometheus/api/v1/write",
        "/api/v1/import",
        "/api/v1/import/native",
        "/api/v1/admin/tsdb/delete_series?match[]=up",
        "/api/v1/query/../import",
        "/snapshot/create",
        "/internal/force_flush",
        "/-/reload",
        "/metrics",
    ):
        answer = gateway.as_reader("hub-1", path, "")
        assert (answer.status, "missing route" in answer.body) == (400, True), path


def test_a_client_that_trusts_other_authorities_does_not_connect(tmp_path):
    fleet.docker("cp", f"{fleet.container('hub-1')}:/etc/ssl/certs/ca-certificates.crt", str(tmp_path / "others.pem"))
    with pytest.raises(ssl.SSLCertVerificationError):
        gateway.ask("hub-1", "/api/v1/write", "", ca=tmp_path / "others.pem")


def test_the_files_with_secrets_are_for_the_services_user_alone(host):
    for name in ("auth.yml", "tls_key.pem"):
        file = host.file(f"/etc/roverwatch/vmauth/secrets/{name}")
        assert (file.user, file.mode) == ("roverwatch", 0o400)
    for line in host.check_output("ps -eo args").splitlines():
        assert gateway.secret() not in line
        assert gateway.robot_password("robot-1") not in line


def test_the_readers_file_is_all_that_a_reader_needs():
    """As the README says it: curl with the file of playbooks/credentials.yml and the authority's certificate."""
    run = fleet.playbook("credentials.yml")
    assert run.rc == 0, run.output
    assert gateway.reader_password() not in run.output
    netrc = fleet.STATE / "pki" / "operator.netrc"
    assert netrc.stat().st_mode & 0o777 == 0o600
    assert f"machine hub-1 login operator password {gateway.reader_password()}" in netrc.read_text()
    assert fleet.playbook("credentials.yml").changed() == {}
    nobody = fleet.playbook("credentials.yml", "-e", "credentials_reader=mallory")
    assert nobody.rc != 0
    assert "mallory is no reader" in nobody.output
