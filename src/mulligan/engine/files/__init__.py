"""Files of VMs from outside: every one is read and written by a program inside the VM."""
