"""Reports as pages for any browser: one HTML file each, which needs no network."""

from __future__ import annotations

from .health_page import health
from .rollout_page import rollout, rollout_lines

__all__ = ["health", "rollout", "rollout_lines"]
