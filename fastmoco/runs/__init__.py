"""A run's events, what they mean, and the files in its directory. Imports recipe alone."""
