"""The network of VMs: who may be reached, and the proxy that is the only way there."""
