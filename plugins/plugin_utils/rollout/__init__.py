"""A release over a fleet in waves: planning, judging, the journal."""
