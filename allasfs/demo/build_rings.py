"""Write the rings, which tell the proxy on which port each kind of server listens.

Arguments: the folder to write to, then KIND=PORT for account, container and object.
"""

import importlib
import sys
from pathlib import Path

PART_POWER = 4  # 16 partitions: one device needs no more, and each is a folder on disk
REPLICAS = 1
DEVICE = "disk"


def main() -> None:
    """Build one ring of one device for each kind of server."""
    folder, *ports = sys.argv[1:]
    builder_module = importlib.import_module("swift.common.ring")
    for pair in ports:
        kind, port = pair.split("=")
        builder = builder_module.RingBuilder(PART_POWER, REPLICAS, min_part_hours=1)
        builder.add_dev(
            {
                "region": 1,
                "zone": 1,
                "ip": "127.0.0.1",
                "port": int(port),
                "device": DEVICE,
                "weight": 1.0,
            }
        )
        builder.rebalance(seed=1)
        builder.get_ring().save(str(Path(folder) / f"{kind}.ring.gz"))


if __name__ == "__main__":
    main()
