"""Mulligan runs the code language models write, each agent in an isolated VM of its own."""

__version__ = "0.1.0"
