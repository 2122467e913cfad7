"""What several measurements use: flags, photographs, charts."""
