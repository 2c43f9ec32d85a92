"""Speaks Swift. Knows nothing of files."""
