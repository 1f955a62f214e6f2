"""Where the controller keeps what it makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller import workplace


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"on_controller": workplace.on_controller}
