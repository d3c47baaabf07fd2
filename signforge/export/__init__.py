"""Writing the balanced set to disk, for training code that is not Python."""
