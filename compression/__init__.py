"""The training side: from a recipe to a signed model package. Imports the device's contracts, never the other way."""
