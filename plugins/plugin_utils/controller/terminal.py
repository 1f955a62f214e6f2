"""What an operator reads beside what Ansible's stdout callback prints: tables, verdicts, progress."""

from __future__ import annotations

from ansible import constants as C
from ansible.utils.display import Display

# With a callback for programs, such as ansible.posix.json or jsonl, stdout is theirs.
FOR_PROGRAMS = "json" in C.DEFAULT_STDOUT_CALLBACK


def tell(text: str, color: str | None = None) -> None:
    """Print a line or some."""
    Display().display(text, color=color, stderr=FOR_PROGRAMS)
