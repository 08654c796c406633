"""Container code-server: VS Code, its Docker command line and the bridge to the workspace."""
