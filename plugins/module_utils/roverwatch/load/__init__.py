"""Load on one service of a robot."""
