"""Programs of VMs that somebody sits in front of."""
