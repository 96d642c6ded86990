"""Other people's formats: read into records. Pure functions over values that are handed in.

What a bridge reads may come from anybody: sizes, depths and paths are bounded, and nothing in it is run.
"""
