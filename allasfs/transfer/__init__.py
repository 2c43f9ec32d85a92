"""Moves bytes and names between the store and here, bounded and in parallel. No POSIX."""
