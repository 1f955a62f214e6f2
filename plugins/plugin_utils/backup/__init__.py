"""Backups of a hub, and the way back."""
