"""What clients asked of a gateway, from the lines that it writes for each request."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from allasfs.demo import Request

# ...beast: 0x7f..: 127.0.0.1 - USER [TIME] "GET /swift/v1/... HTTP/1.1" 206 4096 - "AGENT"
# bytes=0-4095 latency=0.003s
_LINE = re.compile(
    r"beast: 0x[0-9a-f]+: \S+ - .*? \[[^\]]*\] "
    r'"(?P<method>[A-Z]+) (?P<target>.*) HTTP/1\.[01]" (?P<status>\d+) (?P<sent>\d+) '
    r".* (?P<range>\S+) latency="
)


def parse(line: str) -> Request | None:
    """Return the request of a line of the log; None when it tells of something else.

    Its path begins with ``/v1``, as on the demo cloud.
    """
    match = _LINE.search(line)
    if match is None:
        return None
    path, _, query = match["target"].partition("?")
    return Request(
        method=match["method"],
        path=unquote(path, errors="surrogateescape").removeprefix("/swift"),
        query=query,
        status=int(match["status"]),
        range="" if match["range"] == "-" else match["range"],
        sent_bytes=int(match["sent"]),
    )


def read(log: Path, offset: int) -> list[Request]:
    """Return the requests in the log after this offset."""
    with log.open("rb") as lines:
        lines.seek(offset)
        found = [parse(line.decode("utf-8", "surrogateescape")) for line in lines]
    return [request for request in found if request is not None]
