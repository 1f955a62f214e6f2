"""Pins that are not the newest, and the locks."""
