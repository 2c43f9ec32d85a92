"""What the tests of RGW's differences share: another client, which sends what it likes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests

from allasfs.config import MIB, Config
from allasfs.demo import Credentials
from allasfs.fs.vfs import Vfs
from allasfs.store.api import Store
from tests.behaviour.filesystem import VfsFs
from tests.ceph.gateway import Gateway

PART = MIB
TIMEOUT_S = 60


class Raw:
    """A client of the Swift interface without any wisdom."""

    def __init__(self, gateway: Gateway, credentials: Credentials | None = None) -> None:
        token = gateway.token(credentials)
        self.url = token.storage_url
        self._session = requests.Session()
        self._session.headers["X-Auth-Token"] = token.id

    def close(self) -> None:
        self._session.close()

    def send(
        self, method: str, path: str = "", data: bytes = b"", query: str = "", **headers: str
    ) -> requests.Response:
        """Send a request and return its answer, whatever that is; ``_`` in headers stands for -."""
        return self._session.request(
            method,
            f"{self.url}/{quote(path)}" + (f"?{query}" if query else ""),
            data=data,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            timeout=TIMEOUT_S,
        )

    def do(
        self, method: str, path: str = "", data: bytes = b"", query: str = "", **headers: str
    ) -> requests.Response:
        """Send a request that must succeed."""
        reply = self.send(method, path, data, query, **headers)
        reply.raise_for_status()
        return reply

    def listed(self, bucket: str) -> list[dict[str, str | int]]:
        """Return the first page of a listing."""
        found: list[dict[str, str | int]] = self.do("GET", bucket, query="format=json").json()
        return found

    def names(self, bucket: str) -> list[str]:
        """Return the names of the first page of a listing."""
        return [str(entry["name"]) for entry in self.listed(bucket)]

    def put_slo(self, bucket: str, key: str, parts: Sequence[bytes], **headers: str) -> None:
        """Store a static large object as the swift command does."""
        self.do("PUT", f"{bucket}_segments")
        manifest = []
        for number, part in enumerate(parts):
            path = f"{bucket}_segments/{key}/slo/{number:08d}"
            etag = self.do("PUT", path, part).headers["etag"]
            manifest.append({"path": f"/{path}", "etag": etag, "size_bytes": len(part)})
        body = json.dumps(manifest).encode()
        self.do("PUT", f"{bucket}/{key}", body, "multipart-manifest=put", **headers)

    def put_dlo(self, bucket: str, key: str, parts: Sequence[bytes]) -> None:
        """Store a dynamic large object as rclone does: no slash at the end of the prefix."""
        self.do("PUT", f"{bucket}_segments")
        for number, part in enumerate(parts):
            self.do("PUT", f"{bucket}_segments/{key}/dlo/{number:08d}", part)
        manifest = quote(f"{bucket}_segments/{key}/dlo")
        self.do("PUT", f"{bucket}/{key}", X_Object_Manifest=manifest)


@contextmanager
def mounted(store: Store, folder: Path, *, loses: int = 0, **settings: object) -> Iterator[VfsFs]:
    """Yield a file system without a kernel; at its end everything is stored but ``loses`` files."""
    base: dict[str, object] = {
        "spool_dir": folder / f"spool-{len(list(folder.iterdir()))}",
        "segment_threshold": 2 * PART,
        "segment_size": PART,
        "memory": 16 * MIB,
        "connections": 4,
        "ttl_s": 0.0,
    }
    vfs = Vfs(store, Config(**{**base, **settings}))  # type: ignore[arg-type]
    vfs.start()
    try:
        yield VfsFs(vfs)
    finally:
        lost = vfs.close()
    assert len(lost) == loses, lost
