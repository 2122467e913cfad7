"""Compiled loops over plain arrays, by numba and LLVM. Imports only draws."""
