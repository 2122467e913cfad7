"""Images that a table names or holds: Parquet, Arrow, CSV, TSV and JSON lines. Imports the rest of
sources, except its registry.
"""
