"""A service does not end and start again and again, also when it happens to be up just now."""

from __future__ import annotations

from ...common.problem import Problem
from ...system import systemd
from ..options import Options
from ..service import Service


def check(service: Service, options: Options) -> list[Problem]:
    """systemd counts restarts since somebody started the unit, and says no times: the last one was this start. So the
    journal, which costs more, is asked where there were too many and the last one is recent.
    """
    window, uptime, unit = options.restart_window_seconds, service.uptime_seconds, service.unit
    restarts = int(service.shown.get("NRestarts", "0"))
    if restarts <= options.restarts_allowed or (uptime is not None and uptime > window):
        return []
    # A journal that knows of none was lost or is not kept.
    recent = min(restarts, systemd.restarts_in_journal(unit, window) or restarts)
    if recent <= options.restarts_allowed:
        return []
    last = "" if uptime is None else f", the last time {uptime:.0f} s ago"
    what = f"has ended and was started again by systemd {recent} times in {window / 60:.0f} minutes{last}"
    remedy = f"{options.journal(unit)} says why; systemctl restart {unit} begins to count anew"
    return [Problem(options.host, unit, what, remedy)]
