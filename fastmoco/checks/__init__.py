"""Does this installation compute what the papers say? Imports training and the folders below it."""
