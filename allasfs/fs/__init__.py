"""POSIX meaning: names, attributes, open files, calls. Knows nothing of FUSE."""
