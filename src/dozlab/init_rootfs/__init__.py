"""Container init-rootfs: base image fetched, verified, unpacked; session disk; keys and identity."""
