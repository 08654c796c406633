"""What every way to an image needs: a work folder, a look at files as their root, a file system of a folder."""
