"""Code that several measurements share: flags, results, rounds, promises, charts."""
