"""Pages and pictures about runs. Imports evaluation and the folders below it."""
