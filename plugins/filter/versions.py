"""The versions that are pinned, as the roles ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def versions(bundles: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of artifacts_binaries and artifacts_images, the version of each artifact by its name."""
    found = {
        name: bundle["version"]
        for bundle in bundles
        for source in (bundle["upstream"] if "upstream" in bundle else [bundle["debian"]])
        for name in source["files"]
    }
    return found | {image["name"]: image["version"] for image in images}


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"versions": versions}
