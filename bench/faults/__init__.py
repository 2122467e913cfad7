"""Faults of the machine while a command runs: kills, full disks, I/O errors, a clock set back."""
