"""The store of binaries and images, how it is filled, and what of it is on a machine."""
