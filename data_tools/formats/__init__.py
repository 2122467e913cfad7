"""One file a format: its writer and its reader side by side."""
