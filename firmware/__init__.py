"""The box around the appliance: its image, its two slots, flashing, commissioning.

Touches the appliance only through its command line and its files: neither imports the other.
"""
