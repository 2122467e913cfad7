"""Reading files that may be damaged or hostile, within bounds. Imports errors alone."""
