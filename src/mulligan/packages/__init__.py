"""Packages that executions ask for: checked, fetched from the configured index, kept as sets."""
