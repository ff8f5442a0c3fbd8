"""What a VM's disk starts from."""
