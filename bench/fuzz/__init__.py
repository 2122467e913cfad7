"""Fuzzing by mutation: valid files are changed, and each is read in a process that is watched."""
