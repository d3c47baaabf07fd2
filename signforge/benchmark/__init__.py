"""Did balancing help."""
