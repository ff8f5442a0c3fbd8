"""Mulligan on the command line."""
