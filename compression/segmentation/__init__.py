"""Models that draw segments on an image or in a volume: their recipe and their own stages."""
