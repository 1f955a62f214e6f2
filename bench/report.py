"""What the measurements share: where results go, and tables in the documents."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "img"
DOCUMENT = ROOT / "docs" / "performance.md"
END = "<!-- to here -->"


def write_results(name: str, results: dict[str, Any]) -> None:
    """Keep the figures as bench/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(results, indent=2, default=asdict)
    # One record per line: a list of samples is read as a table.
    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda record: " ".join(record[0].split()), text)
    path.write_text(text + "\n")
    print(f"wrote {path.relative_to(ROOT)}", flush=True)


def write_document(script: str, text: str) -> None:
    """Put the text between the marks of this script in docs/performance.md."""
    begin = f"<!-- {script} writes from here -->"
    before, rest = DOCUMENT.read_text().split(begin)
    DOCUMENT.write_text(f"{before}{begin}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")
    print(f"wrote {DOCUMENT.relative_to(ROOT)}", flush=True)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine() -> str:
    """What the figures depend on, beside the code."""
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"
    )
