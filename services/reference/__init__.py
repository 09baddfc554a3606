"""References by hand: learnt from a model's own first traffic or from a file, for models that Weir does not train."""
