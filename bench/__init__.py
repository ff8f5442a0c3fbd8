"""Measurements, side by side on the machine they are run on. ``python -m bench``."""
