"""A Swift server process: proxy, account, container (with its updater) or object server.

Swift's own command would listen by itself and fork its workers. Here the socket is inherited
and several processes share it, so that each of them is one process which dies with its parent.
"""

import importlib
import logging
import sys
import time
from types import ModuleType
from typing import Any

from allasfs.demo.child import inherit

# Swift tells an account of changes in its containers by a daemon that sweeps every 5 minutes.
# Two seconds keep the figures late, as they are in a real cluster, but not too late to look at.
UPDATER_INTERVAL_S = 2.0


# PasteDeploy takes absolute paths only, and takes "%" and "#" in them for its own. This name
# of the working directory, which is the cloud's folder, has none.
ETC = "/proc/self/cwd/etc"


def main() -> None:
    """Serve until killed."""
    inherited = inherit()
    (kind,) = inherited.settings
    section = f"{kind}-server"
    wsgi = importlib.import_module("swift.common.wsgi")
    conf, logger, global_conf, _strategy = wsgi.check_config(f"{ETC}/{section}.conf", section)

    def ready() -> None:
        if kind == "container":
            importlib.import_module("eventlet").spawn(update_accounts, wsgi)
        inherited.ready()

    sock = green_socket(inherited.socket)
    wsgi.run_server(conf, logger, sock, global_conf, ready_callback=ready)


def update_accounts(wsgi: ModuleType) -> None:
    """Bring the containers' figures to their accounts again and again, for ever."""
    updater_module = importlib.import_module("swift.container.updater")
    eventlet = importlib.import_module("eventlet")
    conf = wsgi.appconfig(f"{ETC}/container-updater.conf", name="container-updater")
    updater = updater_module.ContainerUpdater(conf)
    while True:
        eventlet.sleep(UPDATER_INTERVAL_S)
        updater.run_once()


def green_socket(sock: Any) -> Any:
    """Return the inherited socket as one of the kind that lets other requests run meanwhile."""
    green = importlib.import_module("eventlet.green.socket")
    return green.socket(fileno=sock.detach())


def log_to_stderr(
    conf: dict[str, str],
    name: str,
    to_console: bool,
    route: str,
    fmt: str,
    logger: logging.Logger,
    adapted: Any,
) -> None:
    """Send a Swift logger's lines to standard error and not to the machine's syslog.

    Swift calls this for each logger that it makes (its option log_custom_handlers).
    """
    del conf, name, to_console, fmt, adapted
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {route}: %(message)s"))
    handler.formatter.converter = time.gmtime  # type: ignore[union-attr]
    logger.handlers[:] = [handler]


if __name__ == "__main__":
    main()
