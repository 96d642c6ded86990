"""What is true here: the files, the git repository, the machine and the packages that a run meets.

Only looks, but for the objects that it keeps and the files that it is asked to place.
"""
