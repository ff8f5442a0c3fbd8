"""MicroVMs by QEMU: a kernel of their own around the walls of bubblewrap."""
