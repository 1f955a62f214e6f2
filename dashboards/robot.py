"""One robot, in its own history or at a hub. `python -m dashboards` writes the files that are made of it."""

from __future__ import annotations

from dashboards.model import Dashboard, Panel, Query, Row
from dashboards.parts import (
    ANY,
    DISK,
    DISK_SHARE,
    MEMORY_SHARE,
    ON_DISK,
    SAMPLE_AGE,
    SERVICE,
    SLICE,
    TO_HUBS,
    destination,
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
                    thresholds=SAMPLE_AGE,
                    queries=(Query('time() - max(tlast_over_time(up{robot="$robot"}[1d]))', "ago"),),
                ),
                Panel(
                    title="Budget in use",
                    description="Working set of all services, as a share of memory_budget.",
                    unit="ratio",
                    draw="stat",
                    width=2,
                    thresholds=MEMORY_SHARE,
                    queries=(
                        Query(
                            f'max(container_memory_working_set_bytes{{robot="$robot",{SLICE}}})'
                            f' / max(container_spec_memory_limit_bytes{{robot="$robot",{SLICE}}} > 0)',
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
                            f'sum(vmagent_remotewrite_pending_data_bytes{{robot="$robot",{TO_HUBS}}})',
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
                    thresholds=ANY,
                    queries=(
                        Query(
                            "sum(max by (name)"
                            f' (increase(container_oom_events_total{{robot="$robot",{SERVICE}}}[1d])))'
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
                    thresholds=MEMORY_SHARE,
                    queries=(
                        Query(
                            f'max by (name) (container_memory_working_set_bytes{{robot="$robot",{SERVICE}}})'
                            f' / max by (name) (container_spec_memory_limit_bytes{{robot="$robot",{SERVICE}}} > 0)',
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
                            f'max by (name) (container_memory_working_set_bytes{{robot="$robot",{SERVICE}}})',
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
                            f'max(container_memory_working_set_bytes{{robot="$robot",{SLICE}}})',
                            "working set",
                        ),
                        Query(
                            f'max(container_spec_memory_limit_bytes{{robot="$robot",{SLICE}}})',
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
                            f'max by (name) (increase(container_oom_events_total{{robot="$robot",{SERVICE}}})) > 0',
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
                    thresholds=DISK_SHARE,
                    queries=(
                        Query(
                            f'min by (mountpoint) (node_filesystem_avail_bytes{{robot="$robot",{DISK}}}'
                            f' / node_filesystem_size_bytes{{robot="$robot",{DISK}}})',
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
                            + destination('vmagent_remotewrite_pending_data_bytes{robot="$robot"}')
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
                            + destination('rate(vmagent_remotewrite_bytes_sent_total{robot="$robot"})')
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
                            + destination('increase(vmagent_remotewrite_retries_count_total{robot="$robot"})')
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
                            + destination('increase(vmagent_remotewrite_packets_dropped_total{robot="$robot"})')
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
                    queries=(Query(f'sum(vm_data_size_bytes{{robot="$robot",{ON_DISK}}})', "history"),),
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
