"""A robot as they are in the field, and the one way through: refused in one message, deployed beside what is there, and
decommissioned with all of that still there. The tests build on each other.
"""

from __future__ import annotations

import json
import re
import urllib.request

import fleet

testinfra_hosts = ["ansible://robot-1"]

# What its owners have made, once each, in the words of a shell.
LIVED = r"""
set -eu
# Whoever logs in, and root by sudo, closes what they make.
echo 'Defaults umask=0077' > /etc/sudoers.d/umask
# A web interface and another node_exporter, on every address.
cat > /usr/local/bin/stranger <<'END'
#!/usr/bin/python3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Stranger(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"node_load1 0.5\n")
ThreadingHTTPServer(("", int(sys.argv[1])), Stranger).serve_forever()
END
chmod 0755 /usr/local/bin/stranger
printf '[Service]\nExecStart=/usr/local/bin/stranger %%i\n[Install]\nWantedBy=multi-user.target\n' \
  > /etc/systemd/system/stranger@.service
systemctl enable --quiet --now stranger@8000 stranger@9100
# Recordings on a disk of their own, and hardly any room for who logs in.
install -d -o rover -g rover /home/rover/bags /home/rover/.ansible
mount -t tmpfs -o size=64m tmpfs /home/rover/bags
mount -t tmpfs -o size=12m,mode=0700,uid=1000,gid=1000 tmpfs /home/rover/.ansible
# podman as an older guide says, and a source of packages that is gone.
printf '[engine]\ncgroup_manager = "cgroupfs"\n' > /etc/containers/containers.conf
echo 'deb http://packages.robots.invalid/ros bookworm main' > /etc/apt/sources.list.d/ros.list
"""
# Things of theirs that have our names.
NAMESAKES = r"""
set -eu
useradd --create-home --shell /bin/bash roverwatch
echo mine > /home/roverwatch/notes
mkdir -p /opt/roverwatch
echo mine > /opt/roverwatch/notes
printf '[Service]\nExecStart=/bin/sleep infinity\n' > /etc/systemd/system/roverwatch-vmagent.service
printf '#!/bin/sh\n' > /usr/local/sbin/roverwatch-firewall
nft add table inet roverwatch
tar -C / -c etc/hostname | podman import --quiet - localhost/roverwatch/theirs:1 > /dev/null
"""
# As preflight says. nftables goes, too, so that it is installed from the sources that are left.
OTHER_NAMES = r"""
set -eu
usermod --login owner roverwatch
groupmod --new-name owner roverwatch
mv /opt/roverwatch /opt/owners
mv /etc/systemd/system/roverwatch-vmagent.service /etc/systemd/system/owners.service
mv /usr/local/sbin/roverwatch-firewall /usr/local/sbin/owners
nft delete table inet roverwatch
podman tag localhost/roverwatch/theirs:1 localhost/owners/theirs:1
podman rmi localhost/roverwatch/theirs:1
umount /home/rover/.ansible
dpkg --purge nftables 2> /dev/null
"""
THEIRS = (
    "/etc/sudoers.d/umask /etc/systemd/system/stranger@.service /etc/systemd/system/owners.service"
    " /usr/local/bin/stranger /usr/local/sbin/owners /opt/owners/notes /home/roverwatch/notes"
    " /etc/containers/containers.conf /etc/apt/sources.list.d/ros.list"
)
# Where a deployment writes, but for what Ansible brings its modules in.
WRITTEN = (
    "find $(ls -d /etc /opt /usr/local /var/lib/roverwatch /home 2> /dev/null) ! -path '/home/rover/.ansible*'"
    " -printf '%p %m %u %T@\\n'"
)
SEEN = f"sha256sum {THEIRS}; stat -c '%n %a %u %Y' {THEIRS}; getent passwd owner"

SENSOR, EXPORTER = 8010, 9110
DEVICE = "/dev/ttyUSB0"
BESIDE = (
    "--extra-vars",
    json.dumps(
        {
            "sensor_service_port": SENSOR,
            "node_exporter_port": EXPORTER,
            "sensor_service_devices": [DEVICE],
            # Somebody, so that there are rules that close ports to everybody else.
            "operator_networks": ["192.0.2.0/24"],
        }
    ),
)


def shell(script: str) -> str:
    return fleet.docker("exec", fleet.container("robot-1"), "sh", "-c", script)


def reached(host, port: int) -> bool:
    """From outside, as whoever uses the robot does."""
    networks = json.loads(
        fleet.docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", fleet.container_of(host))
    )
    (address,) = (network["IPAddress"] for network in networks.values())
    try:
        return urllib.request.urlopen(f"http://{address}:{port}/", timeout=3).status == 200
    except OSError:
        return False


def test_what_is_in_the_way_is_said_at_once_with_a_way_out_and_nothing_is_changed(host):
    shell(LIVED)
    shell(NAMESAKES)
    before = shell(WRITTEN)
    run = fleet.playbook("site.yml")
    assert run.rc != 0
    assert "Nothing was changed on robot-1" in run.output
    for said in (
        r"the account roverwatch \(uid \d+, home /home/roverwatch, .*\) is not Roverwatch's, .*: .*usermod --login",
        "/etc/systemd/system/roverwatch-vmagent.service is a unit that Roverwatch did not make",
        "/opt/roverwatch is there, with notes in it, .*: move it away",
        "/usr/local/sbin/roverwatch-firewall is there, and Roverwatch did not make it",
        "there is a table inet roverwatch in nftables, and Roverwatch did not make it",
        "podman has an image localhost/roverwatch/theirs:1 that Roverwatch did not bring",
        r"port 8000 is held by stranger@8000.service \(pid \d+, on all addresses\): .* set sensor_service_port",
        r"port 9100 is held by stranger@9100.service \(pid \d+, on all addresses\): .* set node_exporter_port",
        "12M are free for /home/rover/.ansible/tmp, .* are needed: .* set ansible_remote_tmp",
    ):
        assert re.search(f"- robot-1: {said}", run.output), (said, run.output)
    assert shell(WRITTEN) == before


def test_it_is_deployed_beside_what_is_there(host):
    shell(OTHER_NAMES)
    run = fleet.playbook("site.yml", *BESIDE)
    assert run.rc == 0, run.output
    assert f"sensor_service_devices: {DEVICE} is not there now" in run.output
    again = fleet.playbook("site.yml", *BESIDE)
    assert (again.rc, again.changed()) == (0, {})
    health = fleet.playbook("health.yml", *BESIDE)
    assert health.rc == 0, health.output


def test_each_answers_on_its_own_port(host):
    assert [reached(host, port) for port in (8000, 9100)] == [True, True]
    # Ours are for others than this machine.
    assert [reached(host, port) for port in (SENSOR, EXPORTER)] == [False, False]
    assert "node_load1" in fleet.metrics("robot-1", 9100)
    assert {"node_load1", "node_load5"} <= set(fleet.metrics("robot-1", EXPORTER))
    up = 'up{job=~"node-exporter|sensor"}'
    ports = {f"127.0.0.1:{SENSOR}", f"127.0.0.1:{EXPORTER}"}
    assert fleet.eventually(
        lambda: {row["metric"]["instance"] for row in fleet.series(host, f"{up} == 1")} == ports, 30
    )


def test_the_recordings_disk_is_measured_as_the_machine_sees_it(host):
    said = fleet.metrics("robot-1", EXPORTER)
    (size,) = (said[name] for name in said if re.match('node_filesystem_size_bytes.*"/home/rover/bags"', name))
    assert size == 64 << 20


def test_decommissioning_leaves_what_was_there(host):
    before = shell(SEEN)
    run = fleet.playbook("decommission.yml", "-e", "decommission_confirm=yes", *BESIDE)
    assert run.rc == 0, run.output
    assert shell(SEEN) == before
    assert [reached(host, port) for port in (8000, 9100)] == [True, True]
    assert shell("podman image ls --format '{{.Repository}}'") == "localhost/owners/theirs"
    assert shell("ls -d /etc/roverwatch /opt/roverwatch /var/lib/roverwatch 2> /dev/null || true") == ""
    assert shell("getent passwd roverwatch || true") == ""
