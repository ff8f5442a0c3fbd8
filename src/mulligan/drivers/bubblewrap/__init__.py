"""VMs made of namespaces by bubblewrap: no KVM, no daemon, no root."""
