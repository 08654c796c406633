"""The charts, rendered by the real helm. Nothing here needs a cluster."""
