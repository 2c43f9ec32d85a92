"""Benchmarks beside other mounts and the raw client, on a real Swift: figures, never assertions.

``lines`` starts the store and the line to it, ``stock`` fills it, ``clients`` mounts, ``tasks``
says what is done (``timed``, ``worker``) and what is demanded of it (``bars``), ``runner`` takes
the clients in turn as far as ``plan`` wants it, ``records`` keeps what was measured, and
``report``, ``plot`` and ``document`` show it all.
"""
