"""What a machine's system says and keeps: cgroups, systemd, sockets, file systems, writes that reach the disk."""
