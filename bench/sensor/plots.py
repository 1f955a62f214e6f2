"""The plots of docs/performance.md."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.report import IMAGES
from bench.sensor.pages import PEAK_MB

COLORS = {"sensor service": "tab:blue", "prometheus_client": "tab:orange", "naive service": "tab:gray"}
LINES = {"usage_bytes": ("usage", "-"), "working_set_bytes": ("working set", "--"), "resident_bytes": ("resident", "-")}

# Text stays text, and the same figures make the same file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "roverwatch", "font.size": 9})


def throughput(rows: list[dict[str, Any]]) -> None:
    """Bars: answers a second, and the 99th percentile."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    names = [f"{row['service']} {row['path']}" + ("" if row["compression"] else " (plain)") for row in rows]
    colors = [COLORS[row["service"]] for row in rows]
    for axes, title, values in (
        (left, "answers a second, 50 connections", [row["full"]["per_second"] for row in rows]),
        (right, "p99, ms, 50 connections", [1000 * row["full"]["p99_seconds"] for row in rows]),
    ):
        bars = axes.barh(names, values, color=colors)
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.set(title=title, xscale="log", xlim=(1, 4 * max(values)))
    left.invert_yaxis()
    save(figure, "sensor-throughput")


def memory(figures: dict[str, Any]) -> None:
    """Lines: each image's memory over time, its target and its cap."""
    images = figures["images"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    plots = figure.subplots(1, len(images), sharey=True)
    for axes, (flavour, image) in zip(plots, images.items(), strict=True):
        minutes = [sample["seconds"] / 60 for sample in image["samples"]]
        for key, (label, style) in LINES.items():
            axes.plot(minutes, [sample[key] / 1e6 for sample in image["samples"]], style, label=label)
        axes.axhline(image["peak_bytes"] / 1e6, color="tab:blue", linestyle=":", label="peak of the usage")
        axes.axhline(PEAK_MB[flavour], color="black", linestyle=":", label="target for the peak")
        axes.axhline(figures["cap_bytes"] / 1e6, color="tab:red", label="cap")
        axes.set(title=flavour, xlabel="minutes", ylabel="MB", ylim=(0, None))
    axes.legend(loc="lower right", ncols=2)
    save(figure, "sensor-memory")


def save(figure: Figure, name: str) -> None:
    """Write docs/img/<name>.svg."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
