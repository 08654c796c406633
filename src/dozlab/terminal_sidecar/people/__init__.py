"""People: who is on a shell and who leads, invitations and the cookies they become, and the command that makes them."""
