"""Who may reach which port, and nftables."""
