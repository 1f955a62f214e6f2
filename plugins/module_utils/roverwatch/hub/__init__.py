"""A hub's gateway, its certificates, and a robot's way to it."""
