"""Sizes, durations, patience, a problem with its remedy."""
