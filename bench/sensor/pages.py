"""The figures of the sensor service as tables, beside what was wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.report import table
from bench.sensor import speed
from bench.sensor.series import SERIES

PEAK_MB = {"musl": 40, "debian": 45}
# What is left of the cap would last for more than a day. In less time the slope is noise.
FLAT_MB_PER_HOUR = 1.0
FLAT_MINUTES = 30
IMAGE_MB = {"musl": 60}
START_SECONDS = 1.5

Results = dict[str, Any]
Target = tuple[str, str, bool]


def mb(count: float) -> str:
    """Millions of bytes."""
    return f"{count / 1e6:.1f}"


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{1000 * seconds:.{1 if seconds < 0.1 else 0}f}"


def failures(load: dict[str, int]) -> str:
    """How many requests failed, and how many of them by a time-out."""
    return f"{load['failed']} ({load['timed_out']})" if load["failed"] else "0"


def throughput_targets(rows: list[Results]) -> list[Target]:
    """The service beside the others."""

    def full(service: str, path: str, compression: bool = True) -> Results:
        wanted = (service, path, compression)
        found: Results
        (found,) = (row["full"] for row in rows if (row["service"], row["path"], row["compression"]) == wanted)
        return found

    targets = []
    for compression in (True, False):
        how = "" if compression else " without compression"
        own, other = (full(service, "/metrics", compression) for service in ("sensor service", "prometheus_client"))
        ratio, tail = own["per_second"] / other["per_second"], own["p99_seconds"] / other["p99_seconds"]
        targets += [
            (f"at least 2.5 times the throughput of prometheus_client's server{how}", f"{ratio:.1f}", ratio >= 2.5),
            (f"at most a third of its p99{how}", f"{tail:.3f}", tail <= 1 / 3),
        ]
    for path in ("/metrics", "/sensor"):
        ratio = full("sensor service", path)["per_second"] / full("naive service", path)["per_second"]
        targets.append(
            (f"at least 20 times the throughput of the naive service, `{path}`", f"{ratio:.0f}", ratio >= 20)
        )
    return targets


def throughput_table(rows: list[Results]) -> str:
    """All services under load."""
    return table(
        [
            "service",
            "path",
            "kB sent",
            "answers a second",
            "p50, ms",
            "p99, ms",
            "failed (timed out)",
            f"at {speed.RATE} a second: answered",
            "p50, ms",
            "p99, ms",
            "failed (timed out)",
        ],
        [
            [
                row["service"],
                f"`{row['path']}`" + ("" if row["compression"] else ", no compression"),
                f"{row['body_bytes'] / 1e3:.0f}",
                *(
                    cell
                    for kind in ("full", "steady")
                    for cell in (
                        f"{row[kind]['per_second']:.0f}",
                        ms(row[kind]["p50_seconds"]),
                        ms(row[kind]["p99_seconds"]),
                        failures(row[kind]),
                    )
                ),
            ]
            for row in rows
        ],
    )


def start_targets(rows: list[Results]) -> list[Target]:
    """How soon it is ready."""
    return [
        (
            f"ready within {START_SECONDS} s of the start, {row['what']}",
            f"{row['median_seconds']:.2f} s",
            row["median_seconds"] < START_SECONDS,
        )
        for row in rows
    ]


def start_table(rows: list[Results]) -> str:
    """Each way to start it."""
    return table(
        ["", "seconds until ready (median)", "slowest", "a Python that does nothing, same way"],
        [
            [
                "process" if row["what"] == "process" else f"container, {row['what']}",
                f"{row['median_seconds']:.2f}",
                f"{max(row['seconds']):.2f}",
                f"{row['empty_median_seconds']:.2f}",
            ]
            for row in rows
        ],
    )


def hang_targets(hang: Results) -> list[Target]:
    """What a scraper notices of a source that hangs."""
    failed, ratio = hang["hanging"]["failed"], hang["hanging"]["p99_seconds"] / hang["calm"]["p99_seconds"]
    return [
        ("no failed scrape while a source hangs", str(failed), failed == 0),
        ("p99 at most 1.5 times the undisturbed one", f"{ratio:.2f}", ratio <= 1.5),
    ]


def hang_table(hang: Results) -> str:
    """With and without a source that hangs."""
    return table(
        ["", "answers", "failed (timed out)", "p50, ms", "p99, ms"],
        [
            [what, str(load["answered"]), failures(load), ms(load["p50_seconds"]), ms(load["p99_seconds"])]
            for what, load in (("undisturbed", hang["calm"]), ("a source hangs", hang["hanging"]))
        ],
    )


def memory_targets(memory: Results) -> list[Target]:
    """What the kernel charged."""
    targets = []
    for flavour, image in memory["images"].items():
        peak, slope = image["peak_bytes"] / 1e6, image["slope_bytes_per_hour"] / 1e6
        targets.append(
            (f"peak of at most {PEAK_MB[flavour]} MB, {flavour}", f"{peak:.1f} MB", peak <= PEAK_MB[flavour])
        )
        if memory["minutes"] >= FLAT_MINUTES:
            flat = f"flat over {memory['minutes']:g} min: grows by less than {FLAT_MB_PER_HOUR:g} MB an hour, {flavour}"
            targets.append((flat, f"{slope:+.2f} MB", slope < FLAT_MB_PER_HOUR))
        if flavour in IMAGE_MB:
            size = image["image_bytes"] / 1e6
            targets.append(
                (f"image of at most {IMAGE_MB[flavour]} MB, {flavour}", f"{size:.1f} MB", size <= IMAGE_MB[flavour])
            )
    return targets


def memory_table(memory: Results) -> str:
    """Each image under load."""
    return table(
        [
            "image",
            "its size, MB",
            "peak, MB",
            "working set, MB",
            "resident, MB",
            "growth, MB an hour",
            "answers",
            "failed (timed out)",
        ],
        [
            [
                flavour,
                *(mb(image[key]) for key in ("image_bytes", "peak_bytes", "working_set_bytes", "resident_bytes")),
                f"{image['slope_bytes_per_hour'] / 1e6:+.2f}"
                if memory["minutes"] >= FLAT_MINUTES
                else "too short a run",
                str(image["answered"]),
                failures(image),
            ]
            for flavour, image in memory["images"].items()
        ],
    )


# Each part of the measurement: its title, and what is made of its figures.
PARTS: dict[str, tuple[str, Callable[[Any], list[Target]], Callable[[Any], str], str]] = {
    "throughput": (
        f"Under load, {SERIES} series, {speed.CONNECTIONS} connections",
        throughput_targets,
        throughput_table,
        "![Throughput and latency of the three services](img/sensor-throughput.svg)",
    ),
    "start": ("From the start until ready, on one core", start_targets, start_table, ""),
    "hang": (f"While a source hangs, {speed.RATE} scrapes a second", hang_targets, hang_table, ""),
    "memory": (
        "Memory of the container under load",
        memory_targets,
        memory_table,
        "![Memory of the containers under load](img/sensor-memory.svg)",
    ),
}


def targets(part: str, figures: Any) -> list[Target]:
    """What was wanted, what was measured, and whether that is enough."""
    return PARTS[part][1](figures)


def page(results: Results) -> str:
    """The part of the document that is figures."""
    sections = []
    for part, (title, targets_of, table_of, plot) in PARTS.items():
        if part in results:
            figures = results[part]["figures"]
            verdicts = [
                [target, measured, "met" if good else "**missed**"] for target, measured, good in targets_of(figures)
            ]
            sections += [
                f"### {title}",
                f"Measured on {results[part]['machine']}.",
                table_of(figures),
                *([plot] if plot else []),
                table(["target", "measured", ""], verdicts),
            ]
    return "\n\n".join(sections)
