"""Container firecracker-vm: the VMM and its guest, whatever the VMM."""
