"""The training loop: set-up, step, schedule, metrics, save, stop and resume. Imports evaluation
and what lies below it.
"""
