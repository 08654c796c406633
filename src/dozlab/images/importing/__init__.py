"""From a container image, an archive or a root file system's tar to a base image in the store."""
