"""Parts, workers, journal and assembly: a killed prep resumes to the same bytes. Imports sources,
formats, images and the folders below them.
"""
