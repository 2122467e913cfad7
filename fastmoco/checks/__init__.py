"""Does this installation compute what the papers say? Imports training and what lies below it."""
