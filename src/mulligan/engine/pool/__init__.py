"""VMs that are up: spare ones for whoever comes next, idle ones that go, and room for all."""
