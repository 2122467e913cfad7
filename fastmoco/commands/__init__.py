"""One file per command: its flags, its call and its output. Imports everything below; libraries
only inside functions, so that --help stays fast.
"""
