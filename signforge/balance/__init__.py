"""Filling up the rare classes."""
