"""VMs with a kernel of their own, gVisor's, inside of the namespaces bubblewrap makes."""
