"""Recipes become base images; the boot kit; the image store. Knows values, never a session or a component."""
