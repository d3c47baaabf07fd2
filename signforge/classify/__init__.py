"""The timm classifier: built, trained for a fixed number of steps, asked for predictions."""
