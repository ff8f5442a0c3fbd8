"""What runs inside a VM: standard library only, and as little of that as will do."""
