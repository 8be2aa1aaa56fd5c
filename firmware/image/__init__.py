"""Building the image of a box."""
