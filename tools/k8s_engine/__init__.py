"""What the recipe `dozlab-k8s` lays into its image where the makers' releases cannot be reached (rootfs/dozlab-k8s)."""
