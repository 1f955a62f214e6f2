"""Which pins are not the newest of their line: `lines` says what a line is, `programs` asks, `pins` tells."""
