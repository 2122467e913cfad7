"""How fast a run is, how much memory it takes, and what to change. Imports training and what lies
below it.
"""
