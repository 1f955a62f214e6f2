"""What a machine's package manager says of its sources."""

from __future__ import annotations

WHERE = "/etc/apt/sources.list and /etc/apt/sources.list.d"


def broken_sources(said: str) -> str:
    """Which of the sources `apt-get update` could not use, from its standard error, and what to do."""
    lines = [line for line in said.splitlines() if line.startswith(("W: ", "E: "))]
    if not lines:
        return "Its package sources ({}) answer, and do not have it: add Debian's, or install it by hand".format(WHERE)
    return "Package sources that do not work: {}. Correct them or take them out ({}), then run this again".format(
        " ".join(dict.fromkeys(lines)), WHERE
    )
