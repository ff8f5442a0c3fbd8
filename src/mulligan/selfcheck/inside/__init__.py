"""Probes, by group. Their source is sent into a VM: standard library only, Python 3.9 or later."""
