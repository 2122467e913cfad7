"""A run's events, their judgement, and the files in its directory. Imports recipe and below."""
