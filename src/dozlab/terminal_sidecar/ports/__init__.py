"""What listens in the guest: the list, and a proxy to it on an origin of its own."""
