"""What the attributes that modules say their support of are."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Says with C(--check) what it would do, and changes nothing.
  diff_mode:
    description: Shows with C(--diff) what changes, or would.
"""
