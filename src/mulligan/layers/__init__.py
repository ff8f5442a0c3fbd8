"""The layers VMs' disks are made of, as the host keeps them."""
