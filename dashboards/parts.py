"""What both dashboards ask with: matchers, thresholds, labels.

Queries are MetricsQL. `rate` and `increase` without a window take the step of the graph, so that a long range misses
no event and a short one shows what happened. Series of a robot have the label `robot`, those of the hub's own services
`hub`.
"""

from __future__ import annotations

from dashboards.model import Thresholds

# A service's cgroup, not the slice around all, nor the unit of conmon beside the sensor's container.
SERVICE = 'name!~".+[.](slice|service)"'
SLICE = 'name="roverwatch.slice"'
# A real disk; in a container, files such as /etc/hosts are mounts of one, too.
DISK = 'fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660",mountpoint!~"/etc/.+"'
# vmagent numbers its destinations; the first is the robot's own VictoriaMetrics, the others are the hubs.
TO_HUBS = 'url!~"1:.+"'
QUEUES_TO_HUBS = 'path!~".+/1_[0-9A-F]+"'
# From 1.148 on VictoriaMetrics counts the index of its index in memory beside what is on the disk.
ON_DISK = 'type!~".+/metaindex"'

# Robots that are there; vmalert's rule RobotGone takes as long by default.
REPORTING = 'last_over_time(up{robot!="",job="vmagent"}[3m])'

MEMORY_SHARE = Thresholds(warning=0.8, critical=0.95)
DISK_SHARE = Thresholds(warning=0.15, critical=0.05, below=True)
# A robot that gathers samples for the longest time that it may has a newest one of two minutes and a scrape.
SAMPLE_AGE = Thresholds(warning=180, critical=600)
ANY = Thresholds(warning=1, critical=1)


def destination(expr: str, pattern_label: str = "url") -> str:
    """Adds the label `to`: vmagent's number of the destination and, if it shows URLs, its host and port."""
    return f'label_replace({expr}, "to", "$1$2", "{pattern_label}", "([0-9]+:)(?:https?://)?([^/]+).*")'
