"""Learning to draw a class."""
