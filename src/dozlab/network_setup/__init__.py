"""Container network-setup: tap, addresses, forwarding, NAT and the rules of who may talk to whom."""
