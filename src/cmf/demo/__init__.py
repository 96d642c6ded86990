"""The demo: a real pipeline on real data at two sites with one hub between them, and every claim about it checked.

``edge/`` and ``lab/`` hold the pipeline's scripts as their teams would keep them, ``data/`` the survey that it reads.
"""
