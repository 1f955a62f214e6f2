"""What a page shows in a real browser: headless Chromium, which must be installed.

python tests/browser.py PAGE PNG WIDTH HEIGHT    takes a picture
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

TIMEOUT_SECONDS = 120
# Time of the page's own clock in which its scripts may run; Chromium makes it pass as fast as they let it.
PAGE_MILLISECONDS = 20_000

VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta"}


class BrowserError(RuntimeError):
    """Chromium did not do what it was asked to; the text has its last lines."""


def chromium() -> str | None:
    """The browser's program, None where there is none."""
    return shutil.which("chromium")


def dump_dom(path_or_url: str | Path) -> str:
    """The page's HTML after its scripts ran."""
    return _run(path_or_url, "--dump-dom")


def screenshot(path_or_url: str | Path, png: Path, width: int = 1600, height: int = 1000) -> None:
    """What the page looks like in a window of this size, in pixels."""
    _run(path_or_url, f"--screenshot={png}", f"--window-size={width},{height}", "--hide-scrollbars")
    if not png.exists():
        raise BrowserError(f"Chromium made no {png} of {path_or_url}")


def drawn_panels(dom: str) -> dict[str, bool]:
    """For each panel of a page of dashboards, by its title, whether a line, a bar or a table's row is drawn in it."""
    reader = _Panels()
    reader.feed(dom)
    return reader.drawn


class _Panels(HTMLParser):
    """A line or bar is an SVG path that has a shape, inside of what Plotly calls a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[str, bool] = {}
        self._open: list[tuple[str, str | None, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        _, panel, in_trace = self._open[-1] if self._open else ("", None, False)
        panel = given.get("data-panel") or panel
        in_trace = in_trace or "trace" in (given.get("class") or "").split()
        if panel is not None:
            has_shape = tag == "path" and in_trace and bool(given.get("d"))
            self.drawn[panel] = self.drawn.get(panel, False) or has_shape or tag == "td"
        if tag not in VOID:
            self._open.append((tag, panel, in_trace))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        # An end closes what was left open inside, such as an li or a p without an end of its own.
        for depth in range(len(self._open) - 1, -1, -1):
            if self._open[depth][0] == tag:
                del self._open[depth:]
                return


def _run(path_or_url: str | Path, *arguments: str) -> str:
    program = chromium()
    if program is None:
        raise BrowserError("chromium is not installed: lab/packages.sh chromium")
    url = str(path_or_url) if "://" in str(path_or_url) else Path(path_or_url).resolve().as_uri()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={PAGE_MILLISECONDS}",
            *arguments,
            url,
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise BrowserError(f"Chromium was not done with {url} after {TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        raise BrowserError(f"Chromium failed on {url}: {done.stderr.strip()[-1000:]}")
    return done.stdout


if __name__ == "__main__":
    _page, _png, _width, _height = sys.argv[1:]
    screenshot(_page, Path(_png), int(_width), int(_height))
