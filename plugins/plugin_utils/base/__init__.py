"""Preflight: what must hold before a machine is touched."""
