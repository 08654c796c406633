"""The `dozlab` command: parses and prints, nothing else."""
