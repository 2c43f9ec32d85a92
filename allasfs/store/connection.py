"""A connection to the store: swiftclient's, without what requests finds out anew each time.

For each request, requests reads the environment twice (proxies, certificates), looks for a
``.netrc``, and prepares URL, headers and cookies, which is three times the work of the request
itself. Here the environment is read once, and requests go straight to the sockets that requests
keeps. Where a proxy leads to the store, they go through requests as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from swiftclient.client import HTTPConnection

# Without a length, even of nothing.
_WITHOUT_BODY = ("GET", "HEAD")


class _Adapter(HTTPAdapter):
    """The adapter of requests, which gives its sockets to one host away."""

    def sockets(self, url: str, verify: bool | str) -> urllib3.HTTPConnectionPool:
        """Return the sockets for a URL to which no proxy leads."""
        request = requests.Request("GET", url).prepare()
        pool: Any = self.get_connection_with_tls_context(request, verify)
        self.cert_verify(pool, url, verify, None)  # type: ignore[no-untyped-call]
        found: urllib3.HTTPConnectionPool = pool
        return found


class _Reply:
    """An answer with the part of ``requests.Response`` that is used."""

    def __init__(self, raw: urllib3.BaseHTTPResponse) -> None:
        self.raw = raw
        self.status_code = raw.status
        self.headers = dict(raw.headers.itermerged())

    def close(self) -> None:
        """End the connection unless the body was read to its end."""
        self.raw.close()
        self.raw.release_conn()


class Connection(HTTPConnection):  # type: ignore[misc]  # swiftclient has no types
    """A connection for one request at a time. It follows no redirection, and keeps no cookies."""

    def __init__(self, url: str, *, ca_file: str | None = None) -> None:
        super().__init__(url, cacert=ca_file, default_user_agent="allasfs")
        self.requests_args["allow_redirects"] = False
        session, verify = self.request_session, self.requests_args["verify"]
        given = session.merge_environment_settings(url, {}, None, verify, None)
        self._origin = f"{self.parsed_url.scheme}://{self.parsed_url.netloc}"
        self._sockets: urllib3.HTTPConnectionPool | None = None
        if select_proxy(url, given["proxies"]) is None:
            adapter = _Adapter()
            session.mount(self._origin, adapter)
            self._sockets = adapter.sockets(url, given["verify"])

    def _request(
        self, method: str, url: str, *, headers: Mapping[str, Any], data: Any, **others: Any
    ) -> Any:
        """Send a request whose headers swiftclient has prepared; return its answer."""
        if self._sockets is None:
            return super()._request(method, url, headers=headers, data=data, **others)
        sent = dict(headers)
        if method not in _WITHOUT_BODY:
            sent["content-length"] = str(len(data))
        connect_s, silence_s = others["timeout"]
        raw = self._sockets.urlopen(
            method,
            url.removeprefix(self._origin),
            body=data or None,
            headers=sent,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(connect=connect_s, read=silence_s),
            preload_content=False,
            decode_content=False,
        )
        return _Reply(raw)
