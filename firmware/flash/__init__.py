"""Writing an image to a disk, and proving that it is there."""
