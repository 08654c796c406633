"""The back ends of `machine.Vmm`: Firecracker over its API socket, QEMU over QMP, and the process either runs in."""
