"""``python -m mulligan``."""

from mulligan.cli.app import main

main()
