"""Reads shell scripts by structure."""
