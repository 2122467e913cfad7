"""Reads files that may be damaged or hostile, within bounds. Imports only errors and quantities."""
