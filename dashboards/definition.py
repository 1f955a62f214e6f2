"""Our dashboards. `python -m dashboards` writes the files that are made of them.

Queries are MetricsQL. `rate` and `increase` without a window take the step of the graph, so that a long range misses
no event and a short one shows what happened. Series of a robot have the label `robot`, those of the hub's own services
`hub`.
"""

from __future__ import annotations

from dashboards.model import Dashboard, Panel, Query, Row, Thresholds

# A service's cgroup, not the slice around all, nor the unit of conmon beside the sensor's container.
_SERVICE = 'name!~".+[.](slice|service)"'
_SLICE = 'name="roverwatch.slice"'
# A real disk; in a container, files such as /etc/hosts are mounts of one, too.
_DISK = 'fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660",mountpoint!~"/etc/.+"'
# vmagent numbers its destinations; the first is the robot's own VictoriaMetrics, the others are the hubs.
_TO_HUBS = 'url!~"1:.+"'
_QUEUES_TO_HUBS = 'path!~".+/1_[0-9A-F]+"'
# From 1.148 on VictoriaMetrics counts the index of its index in memory beside what is on the disk.
_ON_DISK = 'type!~".+/metaindex"'

# Robots that are there; vmalert's rule RobotGone takes as long by default.
_REPORTING = 'last_over_time(up{robot!="",job="vmagent"}[3m])'

_MEMORY_SHARE = Thresholds(warning=0.8, critical=0.95)
_DISK_SHARE = Thresholds(warning=0.15, critical=0.05, below=True)
# A robot that gathers samples for the longest time that it may has a newest one of two minutes and a scrape.
_SAMPLE_AGE = Thresholds(warning=180, critical=600)
_ANY = Thresholds(warning=1, critical=1)


def _destination(expr: str, pattern_label: str = "url") -> str:
    """Adds the label `to`: vmagent's number of the destination and, if it shows URLs, its host and port."""
    return f'label_replace({expr}, "to", "$1$2", "{pattern_label}", "([0-9]+:)(?:https?://)?([^/]+).*")'


FLEET = Dashboard(
    name="fleet",
    title="Roverwatch: fleet",
    description="All robots as the hub knows them, and the hub itself.",
    rows=(
        Row(
            "Now",
            (
                Panel(
                    title="Robots",
                    description="Robots of which a sample came in the last three minutes, and those of the inventory.",
                    unit="count",
                    draw="stat",
                    width=2,
                    queries=(
                        Query(f"count(count by (robot) ({_REPORTING})) or vector(0)", "reporting"),
                        Query("count(count by (robot) (roverwatch_robot_info))", "expected"),
                    ),
                ),
                Panel(
                    title="Robots gone",
                    description="Robots of the inventory of which no sample came in the last three minutes.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=_ANY,
                    queries=(
                        Query(
                            f"count(count by (robot) (roverwatch_robot_info unless on (robot) {_REPORTING}))"
                            " or count(roverwatch_robot_info) * 0",
                            "gone",
                        ),
                    ),
                ),
                Panel(
                    title="Services down",
                    description="Services of robots and hubs that do not answer their scrape.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=_ANY,
                    queries=(Query("count(up == 0) or vector(0)", "down"),),
                ),
                Panel(
                    title="Alerts firing",
                    description="What Alertmanager was told of.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=_ANY,
                    queries=(Query('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),),
                ),
                Panel(
                    title="OOM kills in 24 h",
                    description="Kills by the kernel at the cap of a service, on all machines.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=_ANY,
                    queries=(
                        Query(
                            "sum(max by (robot, hub, name)"
                            f" (increase(container_oom_events_total{{{_SERVICE}}}[1d]))) or vector(0)",
                            "kills",
                        ),
                    ),
                ),
                Panel(
                    title="Sources failing",
                    description="Sources of sensor services whose last sample was not complete, or is stale.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=_ANY,
                    queries=(Query("count(sensor_source_up == 0) or vector(0)", "failing"),),
                ),
            ),
        ),
        Row(
            "To act on",
            (
                Panel(
                    title="Firing alerts",
                    description="Alerts that fire now.",
                    unit="count",
                    draw="table",
                    labels=("alertname", "severity", "robot", "hub", "about"),
                    may_be_empty="no alert fires",
                    queries=(
                        # An alert about a robot has both labels: whose hub says so is no part of its name.
                        Query(
                            'label_replace(label_replace(label_join(ALERTS{alertstate="firing"}, "about", " ", "job",'
                            ' "name", "source", "mountpoint", "reason", "integration", "group"), "who", "$1", "hub",'
                            ' "(.+)"), "who", "$1", "robot", "(.+)")',
                            "{{alertname}} {{who}} {{about}}",
                        ),
                    ),
                ),
                Panel(
                    title="Age of the newest sample",
                    description="How long ago the newest sample of each robot was taken. It grows while a robot is off"
                    " or cut off; the robot sends what it kept when it is back.",
                    unit="seconds",
                    thresholds=_SAMPLE_AGE,
                    queries=(Query('time() - max by (robot) (tlast_over_time(up{robot!=""}[1d]))', "{{robot}}"),),
                ),
                Panel(
                    title="Down services",
                    description="Each service that does not answer its scrape.",
                    unit="count",
                    draw="bars",
                    may_be_empty="every service answers its scrape",
                    queries=(Query("count by (robot, hub, job) (up == 0)", "{{robot}}{{hub}} {{job}}"),),
                ),
                Panel(
                    title="OOM kills",
                    description="Kills by the kernel at the cap of a service.",
                    unit="count",
                    draw="bars",
                    may_be_empty="no service was OOM-killed",
                    queries=(
                        Query(
                            f"max by (robot, hub, name) (increase(container_oom_events_total{{{_SERVICE}}})) > 0",
                            "{{robot}}{{hub}} {{name}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Memory",
            (
                Panel(
                    title="Slice against budget",
                    description="Working set of all services of a robot, as a share of memory_budget.",
                    unit="ratio",
                    thresholds=_MEMORY_SHARE,
                    queries=(
                        Query(
                            f"max by (robot) (container_memory_working_set_bytes{{{_SLICE}}})"
                            f" / max by (robot) (container_spec_memory_limit_bytes{{{_SLICE}}} > 0)",
                            "{{robot}}",
                        ),
                    ),
                ),
                Panel(
                    title="Services nearest to their cap",
                    description="Working set of a service as a share of its cap; the ten highest of the fleet.",
                    unit="ratio",
                    thresholds=_MEMORY_SHARE,
                    queries=(
                        Query(
                            "topk_max(10,"
                            f" max by (robot, name) (container_memory_working_set_bytes{{{_SERVICE}}})"
                            f" / max by (robot, name) (container_spec_memory_limit_bytes{{{_SERVICE}}} > 0))",
                            "{{robot}} {{name}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "From robots to the hub",
            (
                Panel(
                    title="Push queue",
                    description="What each robot still has to send to its hubs, on its disk and in memory.",
                    unit="bytes",
                    queries=(
                        Query(
                            f"sum by (robot) (vmagent_remotewrite_pending_data_bytes{{{_TO_HUBS}}})",
                            "{{robot}}",
                        ),
                    ),
                ),
                Panel(
                    title="Sent to hubs",
                    description="Bytes that each robot sends to its hubs, compressed.",
                    unit="bytes_per_second",
                    queries=(
                        Query(
                            f"sum by (robot) (rate(vmagent_remotewrite_bytes_sent_total{{{_TO_HUBS}}}))",
                            "{{robot}}",
                        ),
                    ),
                ),
                Panel(
                    title="Samples ingested",
                    description="Samples per second that each hub takes in.",
                    unit="per_second",
                    queries=(Query('sum by (hub) (rate(vm_rows_inserted_total{hub!=""}))', "{{hub}}"),),
                ),
                Panel(
                    title="Blocks lost on the way",
                    description="Blocks of samples that a hub rejected, or that a robot dropped as its queue was full.",
                    unit="count",
                    draw="bars",
                    may_be_empty="no robot lost a block of samples",
                    queries=(
                        Query(
                            f"sum by (robot) (increase(vmagent_remotewrite_packets_dropped_total{{{_TO_HUBS}}})) > 0",
                            "{{robot}}: rejected",
                        ),
                        Query(
                            "sum by (robot)"
                            f" (increase(vm_persistentqueue_blocks_dropped_total{{{_QUEUES_TO_HUBS}}})) > 0",
                            "{{robot}}: queue full",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Machines",
            (
                Panel(
                    title="CPU in use",
                    description="Share of all cores of a robot that is not idle.",
                    unit="ratio",
                    width=3,
                    queries=(
                        Query(
                            '1 - avg by (robot) (rate(node_cpu_seconds_total{robot!="",mode="idle"}))',
                            "{{robot}}",
                        ),
                    ),
                ),
                Panel(
                    title="Load for each core",
                    description="Load average of a minute, divided by the number of cores.",
                    unit="count",
                    width=3,
                    thresholds=Thresholds(warning=1.5, critical=3),
                    queries=(
                        Query(
                            'max by (robot) (node_load1{robot!=""})'
                            ' / count by (robot) (node_cpu_seconds_total{robot!="",mode="idle"})',
                            "{{robot}}",
                        ),
                    ),
                ),
                Panel(
                    title="Memory available",
                    description="Share of a robot's memory that programs could still get without swapping.",
                    unit="ratio",
                    width=3,
                    thresholds=Thresholds(warning=0.15, critical=0.05, below=True),
                    queries=(
                        Query(
                            'max by (robot) (node_memory_MemAvailable_bytes{robot!=""})'
                            ' / max by (robot) (node_memory_MemTotal_bytes{robot!=""})',
                            "{{robot}}",
                        ),
                    ),
                ),
                Panel(
                    title="Disk free",
                    description="Free share of the fullest disk of a robot.",
                    unit="ratio",
                    width=3,
                    thresholds=_DISK_SHARE,
                    queries=(
                        Query(
                            f'min by (robot) (node_filesystem_avail_bytes{{robot!="",{_DISK}}}'
                            f' / node_filesystem_size_bytes{{robot!="",{_DISK}}})',
                            "{{robot}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Sensors",
            (
                Panel(
                    title="Failed samples",
                    description="Samples of sensor services that failed; the ten sources with the most.",
                    unit="per_second",
                    queries=(
                        Query(
                            "topk_max(10, sum by (robot, source) (rate(sensor_failed_total)))",
                            "{{robot}} {{source}}",
                        ),
                    ),
                ),
                Panel(
                    title="Age of readings",
                    description="How long ago a source was sampled last; the ten oldest.",
                    unit="seconds",
                    queries=(
                        Query(
                            "topk_max(10, time() - max by (robot, source) (sensor_last_sample_timestamp_seconds))",
                            "{{robot}} {{source}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "The hub",
            (
                Panel(
                    title="Memory of the hub's services",
                    description="Resident memory of each service of a hub.",
                    unit="bytes",
                    width=4,
                    queries=(Query('max by (hub, job) (process_resident_memory_bytes{hub!=""})', "{{hub}} {{job}}"),),
                ),
                Panel(
                    title="History on the hub's disk",
                    description="Size of the fleet's history.",
                    unit="bytes",
                    width=2,
                    queries=(Query(f'sum by (hub) (vm_data_size_bytes{{hub!="",{_ON_DISK}}})', "{{hub}}"),),
                ),
                Panel(
                    title="Free for the history",
                    description="What is left on the disk that the fleet's history is on.",
                    unit="bytes",
                    width=2,
                    queries=(Query('min by (hub) (vm_free_disk_space_bytes{hub!=""})', "{{hub}}"),),
                ),
                Panel(
                    title="Active series",
                    description="Series that got a sample within the last hour.",
                    unit="count",
                    width=4,
                    queries=(
                        Query(
                            'max by (hub) (vm_cache_entries{hub!="",type="storage/hour_metric_ids"})',
                            "{{hub}}",
                        ),
                    ),
                ),
                Panel(
                    title="Requests at the gateway",
                    description="Requests per second by who logged in; the ten with the most.",
                    unit="per_second",
                    width=4,
                    queries=(
                        Query(
                            "topk_max(10, sum by (hub, username) (rate(vmauth_user_requests_total)))",
                            "{{hub}} {{username}}",
                        ),
                    ),
                ),
                Panel(
                    title="Refusals at the gateway",
                    description="Requests per second that the gateway refused: a wrong password"
                    " (invalid_auth_token), a path that the user may not ask for (missing_route), and others.",
                    unit="per_second",
                    width=4,
                    queries=(
                        Query(
                            "sum by (hub, reason) (rate(vmauth_http_request_errors_total))",
                            "{{hub}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    title="Queries at the hub",
                    description="Queries per second that VictoriaMetrics answers, and those that it calls slow.",
                    unit="per_second",
                    width=4,
                    queries=(
                        Query(
                            'sum by (hub) (rate(vm_http_requests_total{hub!="",path=~"/api/v1/query(_range)?"}))',
                            "{{hub}} queries",
                        ),
                        Query('sum by (hub) (rate(vm_slow_queries_total{hub!=""}))', "{{hub}} slow"),
                    ),
                ),
                Panel(
                    title="The hub's services",
                    description="1 where a service of a hub answers its scrape.",
                    unit="count",
                    width=4,
                    queries=(Query('max by (hub, job) (up{hub!=""})', "{{hub}} {{job}}"),),
                ),
                Panel(
                    title="CPU of the hub's services",
                    description="Cores that each service of a hub uses.",
                    unit="cores",
                    width=4,
                    queries=(Query('sum by (hub, job) (rate(process_cpu_seconds_total{hub!=""}))', "{{hub}} {{job}}"),),
                ),
                Panel(
                    title="Alerting that failed",
                    description="Rules that vmalert could not evaluate, and messages that Alertmanager could not send.",
                    unit="count",
                    draw="bars",
                    width=4,
                    may_be_empty="every rule was evaluated, every message was sent",
                    queries=(
                        Query("sum by (hub) (increase(vmalert_execution_errors_total)) > 0", "{{hub}} rules"),
                        Query(
                            "sum by (hub) (increase(alertmanager_notifications_failed_total)) > 0",
                            "{{hub}} messages",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Versions",
            (
                Panel(
                    title="What runs where",
                    description="Number of machines that run each version of a service. Debian's builds of"
                    " VictoriaMetrics' programs do not tell theirs.",
                    unit="count",
                    draw="table",
                    width=12,
                    labels=("job", "version"),
                    value="machines",
                    queries=(
                        Query(
                            "count by (job, version) (union(sensor_build_info, node_exporter_build_info,"
                            ' label_copy(vm_app_version, "short_version", "version")))',
                            "{{job}} {{version}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

ROBOT = Dashboard(
    name="robot",
    title="Roverwatch: robot",
    description="One robot: its services within their caps, its machine, its sensors, and the way to the hub.",
    rows=(
        Row(
            "Now",
            (
                Panel(
                    title="Services up",
                    description="Services that answer their scrape, of all that are scraped.",
                    unit="count",
                    draw="stat",
                    width=2,
                    queries=(
                        Query('sum(up{robot="$robot"})', "up"),
                        Query('count(up{robot="$robot"})', "scraped"),
                    ),
                ),
                Panel(
                    title="Newest sample",
                    description="How long ago it was taken.",
                    unit="seconds",
                    draw="stat",
                    width=2,
                    thresholds=_SAMPLE_AGE,
                    queries=(Query('time() - max(tlast_over_time(up{robot="$robot"}[1d]))', "ago"),),
                ),
                Panel(
                    title="Budget in use",
                    description="Working set of all services, as a share of memory_budget.",
                    unit="ratio",
                    draw="stat",
                    width=2,
                    thresholds=_MEMORY_SHARE,
                    queries=(
                        Query(
                            f'max(container_memory_working_set_bytes{{robot="$robot",{_SLICE}}})'
                            f' / max(container_spec_memory_limit_bytes{{robot="$robot",{_SLICE}}} > 0)',
                            "of budget",
                        ),
                    ),
                ),
                Panel(
                    title="Queue to hubs",
                    description="What vmagent still has to send to hubs.",
                    unit="bytes",
                    draw="stat",
                    width=2,
                    may_be_empty="the robot has no hub",
                    queries=(
                        Query(
                            f'sum(vmagent_remotewrite_pending_data_bytes{{robot="$robot",{_TO_HUBS}}})',
                            "in the queue",
                        ),
                    ),
                ),
                Panel(
                    title="OOM kills in 24 h",
                    description="Kills by the kernel at the cap of a service.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=_ANY,
                    queries=(
                        Query(
                            "sum(max by (name)"
                            f' (increase(container_oom_events_total{{robot="$robot",{_SERVICE}}}[1d])))'
                            ' or count(up{robot="$robot"}) * 0',
                            "kills",
                        ),
                    ),
                ),
                Panel(
                    title="Machine up",
                    description="Time since the machine's kernel started.",
                    unit="seconds",
                    draw="stat",
                    width=2,
                    queries=(Query('time() - max(node_boot_time_seconds{robot="$robot"})', "up"),),
                ),
            ),
        ),
        Row(
            "Memory of the services",
            (
                Panel(
                    title="Each service against its cap",
                    description="Working set as a share of the cap that the kernel enforces. At 100 % the kernel first"
                    " takes back page cache, then kills.",
                    unit="ratio",
                    width=4,
                    thresholds=_MEMORY_SHARE,
                    queries=(
                        Query(
                            f'max by (name) (container_memory_working_set_bytes{{robot="$robot",{_SERVICE}}})'
                            f' / max by (name) (container_spec_memory_limit_bytes{{robot="$robot",{_SERVICE}}} > 0)',
                            "{{name}}",
                        ),
                    ),
                ),
                Panel(
                    title="Working set of each service",
                    description="cAdvisor's definition: what the cgroup is charged with, without inactive page cache.",
                    unit="bytes",
                    width=4,
                    queries=(
                        Query(
                            f'max by (name) (container_memory_working_set_bytes{{robot="$robot",{_SERVICE}}})',
                            "{{name}}",
                        ),
                    ),
                ),
                Panel(
                    title="Slice against budget",
                    description="Working set of all services together, and memory_budget.",
                    unit="bytes",
                    width=4,
                    queries=(
                        Query(
                            f'max(container_memory_working_set_bytes{{robot="$robot",{_SLICE}}})',
                            "working set",
                        ),
                        Query(
                            f'max(container_spec_memory_limit_bytes{{robot="$robot",{_SLICE}}})',
                            "budget",
                            limit=True,
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Services",
            (
                Panel(
                    title="CPU of each service",
                    description="Cores in use.",
                    unit="cores",
                    width=4,
                    queries=(Query('sum by (job) (rate(process_cpu_seconds_total{robot="$robot"}))', "{{job}}"),),
                ),
                Panel(
                    title="Answers to scrapes",
                    description="1 where a service answers vmagent's scrape.",
                    unit="count",
                    width=4,
                    queries=(Query('min by (job) (up{robot="$robot"})', "{{job}}"),),
                ),
                Panel(
                    title="Duration of scrapes",
                    description="Time that a service takes to answer vmagent's scrape.",
                    unit="seconds",
                    width=4,
                    queries=(Query('max by (job) (scrape_duration_seconds{robot="$robot"})', "{{job}}"),),
                ),
                Panel(
                    title="Restarts",
                    description="Starts of a service's process, but for those in its first five minutes at the hub.",
                    unit="count",
                    draw="bars",
                    may_be_empty="no service was restarted",
                    queries=(
                        # The first value of a series is a change, too: only what was there before can start again.
                        Query(
                            'sum by (job) (changes(process_start_time_seconds{robot="$robot"})'
                            ' if process_start_time_seconds{robot="$robot"} offset 5m) > 0',
                            "{{job}}",
                        ),
                    ),
                ),
                Panel(
                    title="OOM kills",
                    description="Kills by the kernel at the cap of a service.",
                    unit="count",
                    draw="bars",
                    may_be_empty="no service was OOM-killed",
                    queries=(
                        Query(
                            f'max by (name) (increase(container_oom_events_total{{robot="$robot",{_SERVICE}}})) > 0',
                            "{{name}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Machine",
            (
                Panel(
                    title="CPU",
                    description="Share of all cores by what they do. Steal is time that the hypervisor gave to others.",
                    unit="ratio",
                    draw="area",
                    width=4,
                    queries=(
                        Query(
                            'avg by (mode) (rate(node_cpu_seconds_total{robot="$robot",mode!="idle"}))',
                            "{{mode}}",
                        ),
                    ),
                ),
                Panel(
                    title="Load",
                    description="Load averages, and the number of cores.",
                    unit="count",
                    width=4,
                    queries=(
                        Query('max(node_load1{robot="$robot"})', "1 min"),
                        Query('max(node_load5{robot="$robot"})', "5 min"),
                        Query('max(node_load15{robot="$robot"})', "15 min"),
                        Query('count(node_cpu_seconds_total{robot="$robot",mode="idle"})', "cores", limit=True),
                    ),
                ),
                Panel(
                    title="Memory",
                    description="Memory that programs could still get without swapping, and all there is.",
                    unit="bytes",
                    width=4,
                    queries=(
                        Query('max(node_memory_MemAvailable_bytes{robot="$robot"})', "available"),
                        Query('max(node_memory_MemTotal_bytes{robot="$robot"})', "total", limit=True),
                    ),
                ),
                Panel(
                    title="Pressure",
                    description="Share of time in which something had to wait for CPU, disk or memory.",
                    unit="ratio",
                    width=4,
                    may_be_empty="the kernel was built or started without pressure stall information",
                    queries=(
                        Query('max(rate(node_pressure_cpu_waiting_seconds_total{robot="$robot"}))', "CPU"),
                        Query('max(rate(node_pressure_io_waiting_seconds_total{robot="$robot"}))', "disk"),
                        Query('max(rate(node_pressure_memory_waiting_seconds_total{robot="$robot"}))', "memory"),
                    ),
                ),
                Panel(
                    title="Disk free",
                    description="Free share of each file system.",
                    unit="ratio",
                    width=4,
                    thresholds=_DISK_SHARE,
                    queries=(
                        Query(
                            f'min by (mountpoint) (node_filesystem_avail_bytes{{robot="$robot",{_DISK}}}'
                            f' / node_filesystem_size_bytes{{robot="$robot",{_DISK}}})',
                            "{{mountpoint}}",
                        ),
                    ),
                ),
                Panel(
                    title="Disk traffic",
                    description="Bytes read from and written to each disk.",
                    unit="bytes_per_second",
                    width=4,
                    queries=(
                        Query(
                            'sum by (device) (rate(node_disk_read_bytes_total{robot="$robot"}))',
                            "{{device}} read",
                        ),
                        Query(
                            'sum by (device) (rate(node_disk_written_bytes_total{robot="$robot"}))',
                            "{{device}} written",
                        ),
                    ),
                ),
                Panel(
                    title="Network traffic",
                    description="Bytes received and sent by each network interface but the loopback.",
                    unit="bytes_per_second",
                    width=4,
                    queries=(
                        Query(
                            'sum by (device) (rate(node_network_receive_bytes_total{robot="$robot",device!="lo"}))',
                            "{{device}} received",
                        ),
                        Query(
                            'sum by (device) (rate(node_network_transmit_bytes_total{robot="$robot",device!="lo"}))',
                            "{{device}} sent",
                        ),
                    ),
                ),
                Panel(
                    title="Network errors",
                    description="Packets that each network interface got or sent with an error, or dropped.",
                    unit="per_second",
                    width=4,
                    queries=(
                        Query(
                            "sum by (device) (rate({__name__=~"
                            '"node_network_(receive|transmit)_(errs|drop)_total",robot="$robot",device!="lo"}))',
                            "{{device}}",
                        ),
                    ),
                ),
                Panel(
                    title="Temperature",
                    description="What the machine's own sensors say.",
                    unit="celsius",
                    width=4,
                    may_be_empty="the machine has no temperature sensors, as is so for containers and most VMs",
                    queries=(
                        Query('max by (chip) (node_hwmon_temp_celsius{robot="$robot"})', "{{chip}}"),
                        Query('max by (type) (node_thermal_zone_temp{robot="$robot"})', "{{type}}"),
                    ),
                ),
            ),
        ),
        Row(
            "To the hubs",
            (
                Panel(
                    title="Queue",
                    description="What vmagent still has to send to each destination; 1 is the robot's own history.",
                    unit="bytes",
                    width=4,
                    queries=(
                        Query(
                            "max by (to) ("
                            + _destination('vmagent_remotewrite_pending_data_bytes{robot="$robot"}')
                            + ")",
                            "{{to}}",
                        ),
                    ),
                ),
                Panel(
                    title="Sent",
                    description="Bytes sent to each destination, compressed; 1 is the robot's own history.",
                    unit="bytes_per_second",
                    width=4,
                    queries=(
                        Query(
                            "sum by (to) ("
                            + _destination('rate(vmagent_remotewrite_bytes_sent_total{robot="$robot"})')
                            + ")",
                            "{{to}}",
                        ),
                    ),
                ),
                Panel(
                    title="Samples scraped",
                    description="Samples in the last answer of each service.",
                    unit="count",
                    width=4,
                    queries=(Query('sum by (job) (scrape_samples_scraped{robot="$robot"})', "{{job}}"),),
                ),
                Panel(
                    title="Retries",
                    description="Blocks of samples that had to be sent once more, by destination.",
                    unit="count",
                    draw="bars",
                    width=4,
                    may_be_empty="every block of samples was taken at the first attempt",
                    queries=(
                        Query(
                            "sum by (to) ("
                            + _destination('increase(vmagent_remotewrite_retries_count_total{robot="$robot"})')
                            + ") > 0",
                            "{{to}}",
                        ),
                    ),
                ),
                Panel(
                    title="Blocks lost on the way",
                    description="Blocks of samples that a destination rejected, or that were dropped as the queue was"
                    " full.",
                    unit="count",
                    draw="bars",
                    width=4,
                    may_be_empty="no block of samples was lost",
                    queries=(
                        Query(
                            "sum by (to) ("
                            + _destination('increase(vmagent_remotewrite_packets_dropped_total{robot="$robot"})')
                            + ") > 0",
                            "{{to}}: rejected",
                        ),
                        Query(
                            "sum by (queue) (label_replace(increase(vm_persistentqueue_blocks_dropped_total{robot="
                            '"$robot"}), "queue", "$1", "path", ".+/([0-9]+)_[0-9A-F]+")) > 0',
                            "{{queue}}: queue full",
                        ),
                    ),
                ),
                Panel(
                    title="History on the robot",
                    description="Size of the robot's own history.",
                    unit="bytes",
                    width=2,
                    queries=(Query(f'sum(vm_data_size_bytes{{robot="$robot",{_ON_DISK}}})', "history"),),
                ),
                Panel(
                    title="Free for the history",
                    description="What is left on the disk that the robot's own history is on.",
                    unit="bytes",
                    width=2,
                    queries=(Query('min(vm_free_disk_space_bytes{robot="$robot"})', "free"),),
                ),
            ),
        ),
        Row(
            "Sensor service",
            (
                Panel(
                    title="Requests",
                    description="Requests per second by path and status.",
                    unit="per_second",
                    width=4,
                    queries=(
                        Query(
                            'sum by (path, code) (rate(sensor_requests_total{robot="$robot"}))',
                            "{{path}} {{code}}",
                        ),
                    ),
                ),
                Panel(
                    title="Time to render /metrics",
                    description="Median and 99th percentile.",
                    unit="seconds",
                    width=4,
                    queries=(
                        Query(
                            "histogram_quantile(0.5, sum by (le)"
                            ' (rate(sensor_scrape_duration_seconds_bucket{robot="$robot"})))',
                            "median",
                        ),
                        Query(
                            "histogram_quantile(0.99, sum by (le)"
                            ' (rate(sensor_scrape_duration_seconds_bucket{robot="$robot"})))',
                            "99 %",
                        ),
                    ),
                ),
                Panel(
                    title="CPU spikes",
                    description="Times at which the service began to use more than spike_threshold_cores.",
                    unit="count",
                    draw="bars",
                    width=4,
                    may_be_empty="the service used no more CPU than spike_threshold_cores",
                    queries=(Query('sum(increase(sensor_cpu_spike_seconds_count{robot="$robot"})) > 0', "spikes"),),
                ),
                Panel(
                    title="Samples",
                    description="Samples that each source ended, per second.",
                    unit="per_second",
                    width=4,
                    queries=(
                        Query(
                            'sum by (source) (rate(sensor_loop_iterations_total{robot="$robot"}))',
                            "{{source}}",
                        ),
                    ),
                ),
                Panel(
                    title="Failed samples",
                    description="Samples of each source that failed, per second.",
                    unit="per_second",
                    width=4,
                    queries=(Query('sum by (source) (rate(sensor_failed_total{robot="$robot"}))', "{{source}}"),),
                ),
                Panel(
                    title="Age of readings",
                    description="How long ago each source was sampled last.",
                    unit="seconds",
                    width=4,
                    queries=(
                        Query(
                            'time() - max by (source) (sensor_last_sample_timestamp_seconds{robot="$robot"})',
                            "{{source}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Sensors",
            (
                Panel(
                    title="Temperatures",
                    description="Readings in degrees Celsius.",
                    unit="celsius",
                    width=4,
                    may_be_empty="no source of this robot measures temperatures",
                    queries=(
                        Query(
                            'max by (source, sensor) (sensor_reading{robot="$robot",unit="celsius"})',
                            "{{source}} {{sensor}}",
                        ),
                    ),
                ),
                Panel(
                    title="Power",
                    description="Readings in volts, amperes and watts.",
                    unit="count",
                    width=4,
                    may_be_empty="no source of this robot measures power",
                    queries=(
                        Query(
                            'max by (source, sensor) (sensor_reading{robot="$robot",unit=~"volts|amperes|watts"})',
                            "{{source}} {{sensor}}",
                        ),
                    ),
                ),
                Panel(
                    title="Other readings",
                    description="Readings in all other units; the name of a sensor ends with its unit.",
                    unit="count",
                    width=4,
                    queries=(
                        Query(
                            "max by (source, sensor)"
                            ' (sensor_reading{robot="$robot",unit!~"celsius|volts|amperes|watts"})',
                            "{{source}} {{sensor}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

DASHBOARDS = {dashboard.name: dashboard for dashboard in (FLEET, ROBOT)}
