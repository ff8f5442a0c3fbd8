"""Mulligan over HTTP."""
