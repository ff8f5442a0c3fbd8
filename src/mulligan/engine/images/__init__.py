"""Images of VMs: the host's own, those taken in, and what uses which."""
