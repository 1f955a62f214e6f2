"""What the roles' variables are where nobody has set them: a role that is not in the play has not brought its defaults.

Read when this is imported, which is once for a run: in the process from which Ansible forks one for each machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader

ROLES = Path(__file__).resolve().parents[2] / "roles"


def _defaults(path: Path) -> dict[str, Any]:
    return DataLoader().load_from_file(str(path), trusted_as_template=True) or {}


DEFAULTS = {path.parts[-3]: _defaults(path) for path in sorted(ROLES.glob("*/defaults/main.yml"))}
