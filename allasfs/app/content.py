"""What a mount shows: the Vfs over the account, opened, asked once, and served through FUSE."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from allasfs import deadline
from allasfs.app import recover
from allasfs.app.fuse_ops import FuseOps, serve
from allasfs.config import Config
from allasfs.errors import (
    AccessDenied,
    BadCredentials,
    FsError,
    HostUnreachable,
    NoSuchBucket,
    TokenRefused,
)
from allasfs.errors import NotFound as NotFoundInStore
from allasfs.fs.vfs import Vfs
from allasfs.store.auth import Auth
from allasfs.store.swift import SwiftStore

# A person waits for the prompt: the first requests get no more than this, however patient the
# mount will be later.
START_TIMEOUT_S = 20.0


class AccountContent:
    """The mount's side of a Vfs."""

    def __init__(self, auth: Auth, store: SwiftStore, config: Config, mount_point: str) -> None:
        self._auth = auth
        self._store = store
        self._config = config
        self._mount_point = mount_point
        self._vfs = Vfs(store, config)

    @property
    def facts(self) -> Mapping[str, object]:
        """What ``status`` tells of the account; no secrets."""
        account = self._auth.describe()
        expires_at = self._auth.expires_at()
        if expires_at is not None:
            account["token expires"] = time.strftime(
                "%Y-%m-%dT%H:%M:%S%z", time.localtime(expires_at)
            )
        return {"account": account}

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Serve until unmounted; raise SetupError."""
        ops = FuseOps(self._vfs, self._config, on_ready=on_ready)
        serve(ops, self._mount_point, self._config, fsname(self._config))

    def status(self) -> Mapping[str, object]:
        """Return what ``status`` tells of files, uploads, caches and requests."""
        return {**self._vfs.status(), "requests": self._store.requests()}

    def recover(self, request: Mapping[str, object]) -> Mapping[str, object]:
        """Upload or discard a kept file, as ``allasfs recover`` asks."""
        return recover.answer(self._vfs, request)

    def hurry(self) -> None:
        """Let no file that was closed wait for its upload any longer."""
        self._vfs.hurry()

    def waiting(self) -> Mapping[str, object]:
        """Return which closed files are not stored, and why."""
        return self._vfs.waiting()

    def close(self) -> list[str]:
        """Upload what is dirty; return a line for each file that could not be uploaded."""
        return self._vfs.close()

    def give_up(self) -> list[str]:
        """Keep what ``close`` has not uploaded yet; return a line for each."""
        return self._vfs.give_up()


@contextmanager
def open_content(auth: Auth, config: Config, mount_point: str) -> Iterator[AccountContent]:
    """Give the content of a mount whose credentials and bucket are good.

    Raises BadCredentials, HostUnreachable, NoSuchBucket.
    """
    store = SwiftStore(auth, config, ca_file=auth.ca_file)
    try:
        first_answer(auth, store, config)
        yield AccountContent(auth, store, config, mount_point)
    finally:
        store.close()


def first_answer(auth: Auth, store: SwiftStore, config: Config) -> None:
    """Raise BadCredentials, HostUnreachable, NoSuchBucket unless the store lets us in."""
    with deadline.within(min(START_TIMEOUT_S, config.timeout_s)):
        auth.endpoint()
        _ask_once(store, config)


def _ask_once(store: SwiftStore, config: Config) -> None:
    """Raise unless the store lets us into what is to be mounted."""
    try:
        if config.bucket:
            store.head_container(config.bucket)
        else:
            store.account()
        # Now, so that the first listing does not wait for it.
        store.capabilities()
    except (NotFoundInStore, AccessDenied, TokenRefused) as exc:
        if config.bucket:
            hint = "check its name, and whether your project may read it"
            raise NoSuchBucket(f"bucket {config.bucket!r}: {exc.strerror}: {hint}") from exc
        raise BadCredentials(f"the store does not open the account: {exc}") from exc
    except FsError as exc:
        raise HostUnreachable(f"the object store gives no answer: {exc}") from exc


def fsname(config: Config) -> str:
    """Return the name that df and the kernel's list of mounts show for the source."""
    what = f"{config.bucket}/{config.prefix}".strip("/")
    # libfuse separates its options by commas and escapes them by backslashes.
    return f"allasfs:{what}".replace(",", "_").replace("\\", "_")
