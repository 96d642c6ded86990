"""Measure what CMF costs, against the goals that it set itself and beside other frameworks."""
