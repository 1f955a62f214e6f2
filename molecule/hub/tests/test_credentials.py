"""What happens to a robot whose credential, authority or hub is not right: it is refused, and says why."""

from __future__ import annotations

import json
import secrets
import time

import fleet
import gateway
import pytest

testinfra_hosts = ["ansible://robot-1"]
PASSWORD = "/etc/roverwatch/vmagent/secrets/hub_password"
AUTHORITY = "/etc/roverwatch/vmagent/hub-ca.pem"


def accepted(robot: str, fleet_secret: str) -> bool:
    answers = [
        gateway.as_robot(hub, robot, "/api/v1/write", "", fleet_secret=fleet_secret) for hub in ("hub-1", "hub-2")
    ]
    statuses = {answer.status for answer in answers}
    assert len(statuses) == 1, statuses
    assert statuses <= {204, 401}
    return statuses == {204}


def test_health_says_why_a_hub_refuses_a_robot_and_site_puts_it_right(host):
    host.check_output(f"cp -p {PASSWORD} {AUTHORITY} /root/")
    host.check_output(f"printf wrong > {PASSWORD}")
    run = fleet.playbook("health.yml", "--limit", "robot-1")
    assert run.rc != 0
    assert "401" in run.output
    assert "https://hub-1:8427" in run.output

    host.check_output(f"cp -p /root/hub_password {PASSWORD} && cp /etc/ssl/certs/ca-certificates.crt {AUTHORITY}")
    run = fleet.playbook("health.yml", "--limit", "robot-1")
    assert run.rc != 0
    assert "certificate" in run.output

    host.check_output("rm /root/hub_password /root/hub-ca.pem")
    run = fleet.playbook("site.yml", "--limit", "robot-1")
    assert run.rc == 0, run.output
    # Other tests have had services killed on this robot, which is a problem for a while.
    run = fleet.playbook("health.yml", "--limit", "robot-1", "-e", "health_oom_window_seconds=1")
    assert run.rc == 0, run.output


def rotate(new: str, old: str) -> fleet.Run:
    """What an operator does: the new secret where the old one was, and the old one beside it while it is replaced."""
    (fleet.STATE / "fleet_secret").write_text(new)
    variables = fleet.STATE / "previous.json"
    variables.write_text(json.dumps({"fleet_secret_previous": old}))
    variables.chmod(0o600)
    run = fleet.playbook("rotate_secret.yml", "--diff", "-e", f"@{variables}")
    variables.unlink()
    for text in (new, old, gateway.robot_password("robot-1", new), gateway.robot_password("robot-1", old)):
        assert text not in run.output
    return run


def test_a_rotation_has_no_gap_and_locks_nobody_out(host):
    """Robot 2 is in a dead zone meanwhile: its old password is good until it has the new one."""
    start = time.time()
    old, new = gateway.secret(), secrets.token_hex(32)
    assert accepted("robot-1", old)
    assert not accepted("robot-1", new)

    with fleet.cut_off("robot-2"):
        run = rotate(new, old)
        assert "Not reached: robot-2" in run.output, run.output
    assert (accepted("robot-1", new), accepted("robot-1", old)) == (True, False)
    assert (accepted("robot-2", new), accepted("robot-2", old)) == (True, True)
    assert fleet.eventually(lambda: fleet.newest_sample_age("hub-1", "robot-2") < 10, 90), "robot-2 is locked out"

    run = rotate(new, old)
    assert run.rc == 0, run.output
    assert "Every robot has its new password" in run.output
    assert not accepted("robot-2", old)
    for robot in ("robot-1", "robot-2"):
        for hub in ("hub-1", "hub-2"):
            assert fleet.eventually(lambda r=robot, h=hub: fleet.newest_sample_age(h, r) < 10, 90), (robot, hub)
    end = time.time() - 5
    for robot in ("robot-1", "robot-2"):
        match = f'{{robot="{robot}"}}'
        own = fleet.export(robot, match, start, end)
        for hub in ("hub-1", "hub-2"):
            missing = fleet.lacking(own, fleet.export(hub, match, start, end))
            assert missing == {}, f"{robot} → {hub}: {fleet.count(missing)} samples"
    assert fleet.playbook("site.yml", "--check").changed() == {}


def test_a_rotation_without_an_old_secret_is_refused():
    run = fleet.playbook("rotate_secret.yml")
    assert run.rc != 0
    assert "set fleet_secret (the new one) and fleet_secret_previous" in " ".join(run.output.split())
    assert run.changed() == {}


def test_a_certificate_that_runs_out_is_renewed_and_nobody_notices(host):
    """Replaced on the controller by one that ends in five days, as time would do it."""
    pki = fleet.STATE / "pki"
    gateway.write_certificate(pki / "hub-1.pem", pki / "hub-1.key", ["hub-1", "localhost", "127.0.0.1"], 5, pki)
    before = (pki / "hub-1.pem").read_text()
    authority = (pki / "ca.pem").read_text()
    run = fleet.playbook("site.yml", "--limit", "hub-1")
    assert run.rc == 0, run.output
    assert (pki / "hub-1.pem").read_text() != before
    assert (pki / "ca.pem").read_text() == authority
    assert gateway.as_robot("hub-1", "robot-1", "/api/v1/write", "").status == 204
    assert fleet.eventually(lambda: fleet.newest_sample_age("hub-1", "robot-1") < 10, 60)
    assert fleet.playbook("site.yml", "--limit", "hub-1").changed() == {}


@pytest.mark.parametrize(
    ("limit", "variables", "words"),
    [
        (
            "robot-1",
            {
                "fleet_secret": "short",
                "vmagent_outage": "365d",
                "vmagent_hubs": [
                    {"name": "hub-9", "url": "https://hub-9.invalid:8427"},
                    {"name": "hub-1", "url": "https://hub-1:9999"},
                ],
            },
            [
                *("fleet_secret", "32", "ansible-vault", "hub-9.invalid", "resolve", "hub-1:9999", "refused"),
                *("vmagent_hubs_required", "vmagent_outage", "365d", "vmagent_queue_max"),
            ],
        ),
        ("hub-1", {"victoriametrics_retention": "soon"}, ["victoriametrics_retention", "soon"]),
        (
            "hub-1",
            {"victoriametrics_retention": "900y", "vmauth_tls_cert": "/nowhere.pem", "vmauth_tls_key": "/nowhere.key"},
            ["victoriametrics_retention", "900y", "free", "/nowhere.pem"],
        ),
    ],
    ids=["robot", "retention", "hub"],
)
def test_a_wrong_variable_is_refused_before_anything_is_touched(limit, variables, words):
    run = fleet.playbook("site.yml", "--limit", limit, "-e", json.dumps(variables))
    assert run.rc != 0, run.output
    assert run.changed() == {}
    said = " ".join(run.output.split())
    assert f"Nothing was changed on {limit}" in said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("days", "names", "words"),
    [(-1, ["hub-1"], ["expired"]), (300, ["elsewhere"], ["hub-1", "elsewhere"])],
    ids=["expired", "of another name"],
)
def test_a_certificate_of_ones_own_is_looked_at_before_it_is_deployed(tmp_path, days, names, words):
    cert, key = tmp_path / "hub.pem", tmp_path / "hub.key"
    gateway.write_certificate(cert, key, names, days)
    variables = {"vmauth_tls_cert": str(cert), "vmauth_tls_key": str(key)}
    run = fleet.playbook("site.yml", "--limit", "hub-1", "-e", json.dumps(variables))
    assert run.rc != 0, run.output
    assert run.changed() == {}
    said = " ".join(run.output.split())
    for word in ["hub-1:", "vmauth_tls_cert", *words]:
        assert word in said


def test_wrong_promql_in_a_rule_is_refused_by_the_role(tmp_path):
    rules = tmp_path / "mine.yml"
    rules.write_text(json.dumps({"groups": [{"name": "mine", "rules": [{"alert": "Mine", "expr": "rate(up["}]}]}))
    run = fleet.playbook("site.yml", "--limit", "hub-1", "-e", json.dumps({"vmalert_rules": [str(rules)]}))
    assert run.rc != 0, run.output
    assert run.changed() == {}
    assert "mine.yml is invalid, and nothing was changed" in " ".join(run.output.split())
