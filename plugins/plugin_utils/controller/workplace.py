"""Where the controller keeps what it makes: artifacts, reports, the journals of updates."""

from __future__ import annotations

from pathlib import Path

# A link that leads to a checkout is followed, so that this is the checkout.
COLLECTION = Path(__file__).resolve().parents[3]
INSTALLED = COLLECTION.parents[1].name == "ansible_collections"


def on_controller(directory: str) -> str:
    """`reports` as a path in the checkout; of an installed collection, which the next version replaces as a whole, in
    the current directory.
    """
    return str((Path.cwd() if INSTALLED else COLLECTION) / directory)
