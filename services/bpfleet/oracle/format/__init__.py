"""Recordings as files: their words, and what a comparison with them reports. Pure."""
