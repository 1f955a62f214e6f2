"""The fleet as a hub sees it. `python -m dashboards` writes the files that are made of it."""

from __future__ import annotations

from dashboards.model import Dashboard, Panel, Query, Row, Thresholds
from dashboards.parts import (
    ANY,
    DISK,
    DISK_SHARE,
    MEMORY_SHARE,
    ON_DISK,
    QUEUES_TO_HUBS,
    REPORTING,
    SAMPLE_AGE,
    SERVICE,
    SLICE,
    TO_HUBS,
)

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
                        Query(f"count(count by (robot) ({REPORTING})) or vector(0)", "reporting"),
                        Query("count(count by (robot) (roverwatch_robot_info))", "expected"),
                    ),
                ),
                Panel(
                    title="Robots gone",
                    description="Robots of the inventory of which no sample came in the last three minutes.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=ANY,
                    queries=(
                        Query(
                            f"count(count by (robot) (roverwatch_robot_info unless on (robot) {REPORTING}))"
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
                    thresholds=ANY,
                    queries=(Query("count(up == 0) or vector(0)", "down"),),
                ),
                Panel(
                    title="Alerts firing",
                    description="What Alertmanager was told of.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=ANY,
                    queries=(Query('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),),
                ),
                Panel(
                    title="OOM kills in 24 h",
                    description="Kills by the kernel at the cap of a service, on all machines.",
                    unit="count",
                    draw="stat",
                    width=2,
                    thresholds=ANY,
                    queries=(
                        Query(
                            "sum(max by (robot, hub, name)"
                            f" (increase(container_oom_events_total{{{SERVICE}}}[1d]))) or vector(0)",
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
                    thresholds=ANY,
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
                    thresholds=SAMPLE_AGE,
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
                            f"max by (robot, hub, name) (increase(container_oom_events_total{{{SERVICE}}})) > 0",
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
                    thresholds=MEMORY_SHARE,
                    queries=(
                        Query(
                            f"max by (robot) (container_memory_working_set_bytes{{{SLICE}}})"
                            f" / max by (robot) (container_spec_memory_limit_bytes{{{SLICE}}} > 0)",
                            "{{robot}}",
                        ),
                    ),
                ),
                Panel(
                    title="Services nearest to their cap",
                    description="Working set of a service as a share of its cap; the ten highest of the fleet.",
                    unit="ratio",
                    thresholds=MEMORY_SHARE,
                    queries=(
                        Query(
                            "topk_max(10,"
                            f" max by (robot, name) (container_memory_working_set_bytes{{{SERVICE}}})"
                            f" / max by (robot, name) (container_spec_memory_limit_bytes{{{SERVICE}}} > 0))",
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
                            f"sum by (robot) (vmagent_remotewrite_pending_data_bytes{{{TO_HUBS}}})",
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
                            f"sum by (robot) (rate(vmagent_remotewrite_bytes_sent_total{{{TO_HUBS}}}))",
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
                            f"sum by (robot) (increase(vmagent_remotewrite_packets_dropped_total{{{TO_HUBS}}})) > 0",
                            "{{robot}}: rejected",
                        ),
                        Query(
                            "sum by (robot)"
                            f" (increase(vm_persistentqueue_blocks_dropped_total{{{QUEUES_TO_HUBS}}})) > 0",
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
                    thresholds=DISK_SHARE,
                    queries=(
                        Query(
                            f'min by (robot) (node_filesystem_avail_bytes{{robot!="",{DISK}}}'
                            f' / node_filesystem_size_bytes{{robot!="",{DISK}}})',
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
                    queries=(Query(f'sum by (hub) (vm_data_size_bytes{{hub!="",{ON_DISK}}})', "{{hub}}"),),
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
