"""Rows of a listing, written straight into the database of a container of the demo's Swift.

python -m bench.rows FOLDER BUCKET COUNT. Swift lists them as any others; there are no objects.
"""

from __future__ import annotations

import sys
from pathlib import Path

from swift.common.utils import Timestamp
from swift.container.backend import ContainerBroker

AT_ONCE = 10_000
# That of the one byte "x".
ETAG = "9dd4e461268c8034f5c8564e155c67a6"


def main() -> None:
    """Add so many names below ``many/``."""
    folder, bucket, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    broker = next(
        broker
        for path in folder.glob("data/*/containers/*/*/*/*.db")
        if (broker := ContainerBroker(str(path))).get_info()["container"] == bucket
    )
    for start in range(0, count, AT_ONCE):
        broker.merge_items(
            [
                {
                    "name": f"many/{number:07d}.dat",
                    "created_at": Timestamp.now().internal,
                    "size": 1,
                    "content_type": "application/octet-stream",
                    "etag": ETAG,
                    "deleted": 0,
                }
                for number in range(start, min(start + AT_ONCE, count))
            ]
        )


if __name__ == "__main__":
    main()
