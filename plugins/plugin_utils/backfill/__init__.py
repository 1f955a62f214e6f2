"""What a hub lacks of a robot's history, and the copy of it."""
