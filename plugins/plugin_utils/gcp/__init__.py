"""A hub's VM and its firewall in Google Cloud."""
