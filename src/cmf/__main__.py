"""`python -m cmf` is the `cmf` command."""

from cmf.cli import main

main()
