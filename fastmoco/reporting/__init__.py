"""Pages and pictures about runs. Imports evaluation and what lies below it."""
