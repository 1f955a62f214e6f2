"""A look at a machine, the checks, and the fleet's report."""
