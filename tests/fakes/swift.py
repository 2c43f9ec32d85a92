"""A SwiftStore on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from allasfs.config import Config
from allasfs.demo import Cloud
from allasfs.store.auth import load
from allasfs.store.forms import Sources
from allasfs.store.swift import SwiftStore
from tests.ceph.gateway import Gateway

# A machine that does ten other things answers late; a test that hangs must not hang for long.
CONFIG = Config(timeout_s=30.0)


@contextmanager
def swift_store(server: Cloud | Gateway, config: Config = CONFIG) -> Iterator[SwiftStore]:
    """Yield a store for the account of the server's user."""
    sources = Sources(environ=server.environ, home=Path("/nonexistent"), timeout_s=config.timeout_s)
    store = SwiftStore(load(sources), replace(config))
    try:
        yield store
    finally:
        store.close()
