"""Quantization, one module for each target: no one int8 file is fast and right on all of them."""
