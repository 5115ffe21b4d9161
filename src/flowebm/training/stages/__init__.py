"""The stages of a fit, one a file."""
