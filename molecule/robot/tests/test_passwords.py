"""What a source needs to log in: on the robot for its service alone, and in nobody's output."""

from __future__ import annotations

import json
import secrets

import fleet

testinfra_hosts = ["ansible://robot-1"]
UNIT = "roverwatch-sensor"
DIRECTORY = f"/etc/roverwatch/sensor/{UNIT}.secrets"


def provision(tmp_path, mark: str, **passwords: str) -> fleet.Run:
    """A run with all that could give a password away, which goes by file so that no command line has it."""
    variables = tmp_path / "vault.json"
    variables.write_text(json.dumps({"sensor_service_secrets": passwords}))
    run = fleet.playbook("site.yml", "--limit", "robot-1", "-vvv", "--diff", "-e", f"@{variables}")
    assert run.rc == 0, run.output
    assert mark not in run.output
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in run.output or not passwords  # it is the run that had it
    return run


def test_a_secret_is_for_its_service_alone(host, tmp_path):
    mark = secrets.token_hex(16)
    # As awkward as a password can be: whoever prints it escaped does not print the very text that Ansible hides.
    password = f"{mark}'\"\\\n{mark} ü"
    since = host.check_output("date +%s")
    before = fleet.main_pids(host)

    provision(tmp_path, mark, mqtt_password=password, plug_password=f"{mark}-2")
    read = f"podman exec {UNIT} python3 -c 'print(ascii(open(\"/etc/roverwatch/secrets/mqtt_password\").read()))'"
    assert host.check_output(read) == ascii(password)
    directory, file = host.file(DIRECTORY), host.file(f"{DIRECTORY}/mqtt_password")
    assert (directory.uid, directory.mode) == (65532, 0o700)
    assert (file.uid, file.mode) == (65532, 0o400)
    assert f"{DIRECTORY}:/etc/roverwatch/secrets:ro" in host.file(f"/etc/systemd/system/{UNIT}.service").content_string
    mount = f"grep /etc/roverwatch/secrets /proc/{fleet.worker_pid(host, UNIT)}/mounts"
    assert "ro" in host.check_output(mount).split()[3].split(",")
    started = fleet.main_pids(host)
    assert {unit for unit in before if started[unit] != before[unit]} == {UNIT}

    again = provision(tmp_path, mark, mqtt_password=password, plug_password=f"{mark}-2")
    assert again.changed() == {}
    assert fleet.main_pids(host) == started

    changed = provision(tmp_path, mark, mqtt_password=f"{mark}-3")
    assert "secrets that change: mqtt_password, plug_password" in changed.output
    assert host.check_output(f"ls -A {DIRECTORY}").split() == [".generation", "mqtt_password"]
    assert host.check_output(read) == ascii(f"{mark}-3")
    restarted = fleet.main_pids(host)
    assert {unit for unit in started if restarted[unit] != started[unit]} == {UNIT}

    journal = host.check_output(f"journalctl --since=@{since} --output=verbose --all")
    assert "Invoked with args=['--config', '/etc/roverwatch/config.toml']" in journal
    assert "secrets=NOT_LOGGING_PARAMETER" in journal
    assert mark not in journal
    # The search itself is logged, so it comes after the journal.
    found = host.check_output(
        f"grep -rl {mark} /etc /run /opt/roverwatch /var/lib/roverwatch /var/lib/containers || true"
    )
    assert found == f"{DIRECTORY}/mqtt_password"

    assert provision(tmp_path, mark).changed() == {"robot-1": 1}
    assert not directory.exists
    assert host.run(f"podman exec {UNIT} ls /etc/roverwatch/secrets").rc != 0
