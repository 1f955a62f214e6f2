"""The whole stack on a robot: what the kernel, systemd and the hub say of it."""

from __future__ import annotations

import json
import re
import time

import fleet
import pytest
import yaml

testinfra_hosts = ["ansible://robots"]


@pytest.fixture
def hub(host):
    return host.get_host("ansible://hub-1", ansible_inventory=str(fleet.INVENTORY), sudo=True)


def test_the_kernel_enforces_the_budget_and_every_cap(host):
    for unit, cap in fleet.CAPS.items():
        *own, (path, budget) = fleet.cgroups(host, fleet.worker_pid(host, unit))
        assert path.endswith(fleet.SLICE)
        assert budget == fleet.BUDGET
        assert min(limit for _, limit in own if limit is not None) == cap, f"{unit}: {own}"


def test_every_service_listens_on_localhost_alone(host):
    listening = set(host.check_output("ss -Hltn | awk '{print $4}'").split())
    ours = {socket for socket in listening if socket.rsplit(":", 1)[1] in ("8000", "8428", "8429", "9100")}
    assert ours == {f"127.0.0.1:{port}" for port in (8000, 8428, 8429, 9100)}


@pytest.mark.parametrize("unit", [unit for unit in fleet.CAPS if unit != "roverwatch-sensor"])
def test_a_binary_is_sandboxed(host, unit):
    exposure = float(re.search(r"level for .*: ([\d.]+)", host.check_output(f"systemd-analyze security {unit}"))[1])
    print(f"{unit}: systemd-analyze security {exposure}")
    assert exposure <= 2.5
    status = host.file(f"/proc/{fleet.worker_pid(host, unit)}/status").content_string
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^THP_enabled:\s+0$", status, re.MULTILINE)
    assert not re.search(r"^Uid:\s+0\s", status, re.MULTILINE)


def test_whatever_umask_a_login_has_everybody_can_read_what_is_no_secret(host):
    """Robot 2 was provisioned by one that closes all that it makes."""
    umasks = {"robot-1": "0022", "robot-2": "0077"}
    assert host.check_output("umask") == umasks[host.backend.get_hostname()]
    places = "/opt/roverwatch /etc/roverwatch /usr/local/sbin/roverwatch-* /etc/systemd/system/roverwatch*"
    secret = r"\( -name secrets -o -name *.secrets \) -prune"
    wrong = r"\( ! -user root -o ! -group root -o ! -perm -444 -o -perm /022 -o -type d ! -perm -111 \) ! -type l"
    assert host.check_output(f"set -f; find $(set +f; echo {places}) {secret} -o {wrong} -print") == ""
    data = "/var/lib/roverwatch /var/lib/roverwatch/textfile"
    assert host.check_output(f"stat -c '%a %U' {data}").splitlines() == ["755 root"] * 2


def test_node_exporter_sees_each_mount_of_the_machine_and_none_that_it_has_not(host):
    """Below /home and /tmp as well, and what is mounted after its start; what it cannot measure, it says."""
    late, closed = {"/home/data/bags": 64 << 20, "/tmp/late": 16 << 20}, "/home/closed/bags"
    host.check_output("install -d -m 0755 /home/data && install -d -m 0700 /home/closed")
    for place, size in {**late, closed: 1 << 20}.items():
        host.check_output(f"install -d -m 0755 {place} && mount -t tmpfs -o size={size} tmpfs {place}")
    try:
        said = fleet.metrics(host.backend.get_hostname(), 9100)
        there = json.loads(host.check_output("findmnt --json --bytes --list --output TARGET,SIZE,FSTYPE"))[
            "filesystems"
        ]
    finally:
        host.check_output(f"umount {closed} {' '.join(late)} && rm -r /home/data /home/closed /tmp/late")
    found = {
        (name.partition("{")[0], re.search('mountpoint="(.*?)"', name)[1]): value
        for name, value in said.items()
        if name.startswith("node_filesystem_")
    }
    sizes = {place: value for (name, place), value in found.items() if name == "node_filesystem_size_bytes"}
    assert {place: sizes.get(place) for place in late} == late
    assert {place: found["node_filesystem_readonly", place] for place in late} == dict.fromkeys(late, 0)
    errors = {place for (name, place), value in found.items() if name == "node_filesystem_device_error" and value}
    assert errors == {closed}
    machines = {mount["target"]: int(mount["size"]) for mount in there}
    assert {place: machines.get(place) for place in sizes} == sizes
    # Every file system of a kind that is on disks; those of engines come and go.
    disks = {mount["target"] for mount in there if mount["fstype"] in ("ext4", "xfs", "btrfs", "vfat")}
    assert {place for place in disks if not place.startswith(("/var/lib/containers/", "/var/lib/docker/"))} <= set(
        sizes
    )


def test_health_sees_a_stranger_on_a_port_a_loop_and_a_full_disk_whenever_it_looks(host):
    unit, full = "roverwatch-node-exporter", "/var/lib/roverwatch/full"
    answer = "self.send_response(200); self.end_headers()"
    stranger = (
        "from http.server import *\n"
        f"class H(BaseHTTPRequestHandler):\n def do_GET(self): {answer}\n"
        "HTTPServer(('', 9100), H).serve_forever()"
    )
    host.check_output(f"mkdir -p {full} && mount -t tmpfs -o size=1m tmpfs {full}")
    host.run(f"dd if=/dev/zero of={full}/fill")
    host.check_output(f"systemctl stop {unit}")
    host.check_output("systemd-run --unit=stranger python3 -c %s", stranger)
    try:
        host.check_output(f"systemctl start {unit}")
        assert fleet.eventually(lambda: int(fleet.show(host, unit, "NRestarts")["NRestarts"]) > 2, 30)
        run = fleet.playbook("health.yml", "--limit", host.backend.get_hostname())
    finally:
        host.check_output(f"systemctl stop stranger; umount {full} && rmdir {full}")
        # Its restarts are none of the next test's business.
        host.check_output(f"systemctl reset-failed {unit}; systemctl restart {unit}")
    assert run.rc != 0
    for said in (
        r"is not what answers at http://127.0.0.1:9100/metrics: python3 \(pid \d+, stranger.service\) has its port",
        rf"{unit} has ended and was started again by systemd \d+ times in 10 minutes",
        rf"disk {full} is full: 0 of 1M are free",
    ):
        assert re.search(said, run.output), run.output
    assert fleet.eventually(lambda: fleet.answers(host, "9100/metrics"), 30)


def test_the_sensor_container_has_no_privileges_and_nothing_to_write_to(host):
    pid = fleet.worker_pid(host, "roverwatch-sensor")
    status = host.file(f"/proc/{pid}/status").content_string
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^Uid:\s+65532\s", status, re.MULTILINE)
    root = next(line for line in host.file(f"/proc/{pid}/mounts").content_string.splitlines() if line.split()[1] == "/")
    assert "ro" in root.split()[3].split(",")
    # Nor to the kernel's files of all cgroups, which the source `cgroup` reads: no file is its own or everybody's.
    open_to_it = r"\( -perm /002 -o -uid 65532 -o -gid 65532 \) ! -type l"
    assert host.check_output(f"find /proc/{pid}/root/sys/fs/cgroup/ {open_to_it}") == ""


def test_only_a_small_supervisor_stays_beside_the_container(host):
    pid = int(fleet.show(host, "roverwatch-sensor", "MainPID")["MainPID"])
    rss = int(re.search(r"^VmRSS:\s+(\d+) kB", host.file(f"/proc/{pid}/status").content_string, re.MULTILINE)[1])
    assert host.file(f"/proc/{pid}/comm").content_string.strip() == "conmon"
    assert rss < 5 * 1024


def test_the_hub_sees_four_services_with_the_fleets_labels(host, hub):
    robot = host.backend.get_hostname()
    up = 'count(up{job=~".+", fleet="lab", site="docker"} == 1) by (robot)'
    assert fleet.eventually(lambda: fleet.query(hub, up).get(robot) == 4, 60), fleet.query(hub, up)


def test_the_robot_has_its_own_history(host):
    robot = host.backend.get_hostname()
    assert fleet.eventually(lambda: fleet.query(host, "count(up) by (robot)").get(robot) == 4, 60)


def test_preflight_counts_on_as_many_series_as_the_robot_has(host):
    robot = host.backend.get_hostname()
    counted = yaml.safe_load((fleet.ROOT / "roles" / "vmagent" / "defaults" / "main.yml").read_text())["vmagent_series"]
    # Each scrape has six more, about itself. The last one of a service that was just started may be of before.
    each = "sum(last_over_time(scrape_samples_post_metric_relabeling[1m]) + 6) by (robot)"
    fleet.eventually(lambda: fleet.query(host, each)[robot] > 0.4 * counted, 30)
    found = fleet.query(host, each)[robot]
    print(f"{robot}: {found:.0f} series")
    assert 0.4 * counted < found <= counted <= 500


def test_nothing_is_scraped_in_the_format_of_before_nor_with_what_nobody_reads(host):
    assert all(name.endswith(".yml") for name in host.file("/etc/roverwatch/scrape.d").listdir())
    internals = '{__name__=~"go_.*|flag|promhttp_.*|vm_cache_.*|node_vmstat_.*|scrape_timeout_seconds"}'
    assert fleet.series(host, f"count(last_over_time({internals}[1m]))") == []


# All that changes while it is looked at; a counter only grows. The memory of a busy service jumps between two looks.
SLACK = {
    "container_memory_usage_bytes": 1 << 20,
    "container_memory_working_set_bytes": 1 << 20,
    "container_memory_rss": 1 << 20,
    "container_memory_cache": 1 << 20,
    "container_memory_max_usage_bytes": 0,
    "container_oom_events_total": 0,
    "container_cpu_usage_seconds_total": 0,
    "container_threads": 2,
}


def test_the_sensor_service_says_what_the_kernel_says_of_every_service(host):
    chains = {unit: fleet.cgroups(host, fleet.worker_pid(host, unit)) for unit in fleet.CAPS}
    supervisor = fleet.cgroups(host, int(fleet.show(host, "roverwatch-sensor", "MainPID")["MainPID"]))
    # In the slice directly; of a container, its scope.
    paths = {unit: chain[-2][0] for unit, chain in chains.items()}
    paths |= {"roverwatch-sensor.service": supervisor[-2][0], fleet.SLICE: supervisor[-1][0]}
    # One kill to count. On cgroup v1 it takes the largest process alone, and node_exporter runs on; on v2 systemd sees
    # it, and starts the service anew.
    fleet.hoard(host, paths["roverwatch-node-exporter"])
    assert fleet.eventually(lambda: fleet.answers(host, "9100/metrics"), 30)
    watched = fleet.watch(host, list(paths.values()))

    limits = {unit: min(limit for _, limit in chain[:-1] if limit is not None) for unit, chain in chains.items()}
    limits |= {"roverwatch-sensor.service": supervisor[0][1], fleet.SLICE: fleet.BUDGET}
    # What a timer starts is seen if it happens to run just then.
    passing = {"roverwatch-firewall-metrics": 32 << 20}
    assert limits.items() <= watched.said["container_spec_memory_limit_bytes"].items() <= (limits | passing).items()
    watched.said.pop("container_spec_memory_limit_bytes")
    known = {metric for metric in SLACK if any(watched.kernel[path][0][metric] is not None for path in paths.values())}
    # cgroup v2 keeps no peak before kernel 5.19.
    assert known >= set(SLACK) - {"container_memory_max_usage_bytes"}
    assert set(watched.said) == known
    for metric in known:
        slack = SLACK[metric]
        counted = {name for name, path in paths.items() if watched.kernel[path][0][metric] is not None}
        # Where cpu and cpuacct are mounted apart, as on some hosts of the lab, systemd counts no time of services.
        assert counted == set(paths) or metric == "container_cpu_usage_seconds_total", metric
        assert counted >= {"roverwatch-sensor", fleet.SLICE}
        assert counted <= set(watched.said[metric]) <= counted | set(passing), metric
        for name in counted:
            kernel = [found[metric] for found in watched.kernel[paths[name]]]
            said = watched.said[metric][name]
            assert min(kernel) - slack <= said <= max(kernel) + slack, f"{metric} of {name}: {said}, kernel {kernel}"
            print(f"{host.backend.get_hostname()} {metric} {name}: {said:.10g}, kernel {min(kernel)} to {max(kernel)}")
    if "/memory/" in paths["roverwatch-node-exporter"]:
        assert watched.said["container_oom_events_total"]["roverwatch-node-exporter"] >= 1


def test_the_robot_keeps_what_the_sensor_service_says_of_its_services(host):
    robot = host.backend.get_hostname()
    # Without what a timer starts, which is seen if it happens to run just then.
    of_services = '{name=~"roverwatch.+", name!="roverwatch-firewall-metrics", job="sensor"}'
    names = f"count(container_memory_working_set_bytes{of_services}) by (robot)"
    assert fleet.eventually(lambda: fleet.query(host, names).get(robot) == len(fleet.CAPS) + 2, 60)
    vmagent = fleet.query(host, 'container_memory_working_set_bytes{name="roverwatch-vmagent"}')
    assert 1 << 20 < vmagent[robot] < fleet.CAPS["roverwatch-vmagent"]


def test_the_queue_is_on_the_disk(host):
    queue = host.file("/var/lib/roverwatch/vmagent/queue/persistent-queue")
    assert queue.is_directory
    assert len(queue.listdir()) == 3  # the robot's own history, and two hubs
    assert host.check_output("stat --file-system --format %T /var/lib/roverwatch/vmagent/queue") != "tmpfs"


def test_a_history_that_is_restarted_does_not_bring_its_caches_back_as_memory(host):
    """VictoriaMetrics saves its caches when it stops and reads them back as a whole, which alone fills a small cap."""
    unit = "roverwatch-victoriametrics"
    for _ in range(2):
        host.check_output(f"systemctl restart {unit}")
        assert fleet.eventually(lambda: fleet.answers(host, "8428/health"), 30)
    (own, cap), *_ = fleet.cgroups(host, fleet.worker_pid(host, unit))
    stat = host.file(f"{own}/memory.stat").content_string
    anonymous = int(re.search(r"^(?:total_rss|anon) (\d+)$", stat, re.MULTILINE)[1])
    print(f"{unit}: {anonymous / 2**20:.0f} MiB of its own after two restarts, its cap is {cap >> 20} MiB")
    assert anonymous < cap / 2


def test_a_robot_that_is_killed_comes_back_with_its_history(host):
    """The last of a robot's tests: SSH's port is another one afterwards."""
    robot = host.backend.get_hostname()
    container = fleet.container_of(host)
    for _ in range(fleet.POWER_CUTS):
        # A power cut takes the last ten seconds or so, which VictoriaMetrics still had in memory; the hub has them. So
        # this asks for what is older, once the robot has run for long enough to have any.
        assert fleet.eventually(lambda: fleet.query(container, "count(up == 1) by (robot)").get(robot) == 4, 60)
        assert fleet.eventually(lambda: fleet.query(container, _older_samples()), 60)
        old = _older_samples()
        before = fleet.query(container, old)
        assert before[robot] > 0
        fleet.docker("kill", container)
        start = time.monotonic()
        fleet.docker("start", container)
        assert fleet.eventually(lambda: fleet.answers(container, *fleet.READY), 30), "not everything runs within 30 s"
        print(f"{robot}: everything answered {time.monotonic() - start:.1f} s after the start")
        states = fleet.docker("exec", container, "systemctl", "is-active", *fleet.CAPS)
        assert states.split() == ["active"] * 4
        assert fleet.query(container, old) == before


def _older_samples() -> str:
    return f"count_over_time(up{{job='vmagent'}}[30s] @ {int(time.time()) - 20})"
