"""How good are samples and classifiers."""
