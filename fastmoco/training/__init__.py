"""The training loop: set-up, step, schedule, metrics, save, stop and resume. Imports evaluation
and the folders below it.
"""
