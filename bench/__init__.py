"""Benchmarks beside other mounts and the raw client, on a real Swift: figures, never assertions.

``lines`` starts the store and the line to it, ``clients`` mounts, ``tasks`` does the work and says
what is demanded of it, ``runner`` takes the clients in turn, ``report`` and ``plot`` show it all.
"""
