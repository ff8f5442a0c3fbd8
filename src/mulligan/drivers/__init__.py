"""The ways to make a VM, from the host's side. See ``interface``."""
