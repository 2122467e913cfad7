"""Faults of the machine while a command runs: kills, full disks, read errors, a clock set back."""
