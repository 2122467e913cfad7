"""One file per command: `Args` has its flags, `run` calls the library and prints the result.
Imports everything below, libraries only inside functions so that --help stays fast.
"""
