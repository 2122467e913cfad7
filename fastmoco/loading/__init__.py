"""From a dataset's path to batches on the device. Imports kernels, system and draws."""
