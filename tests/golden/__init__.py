"""Figures of peers that cannot share our environment, and the scripts that made them."""
