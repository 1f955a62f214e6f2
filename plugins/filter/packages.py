"""Filters of what a package manager says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.plugin_utils.system.packages import broken_sources


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"broken_sources": broken_sources}
