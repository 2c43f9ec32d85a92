"""The configuration of OpenStack Swift: one device, one replica, everything in one folder."""

from dataclasses import dataclass
from pathlib import Path

from allasfs.demo.credentials import write_private
from allasfs.demo.process import HOST

# The servers share two cores with their clients: slow is not dead. Swift's defaults (0.5 s to
# connect, 1 s to update a container's listing, 10 s for an answer) would turn a busy moment
# into a 503, or into an object that no listing shows because no daemon repeats the update.
NODE_TIMEOUT_S = 120
CLIENT_TIMEOUT_S = 120

# Bytes that one turn of Swift's Python loops moves. With 1 GiB on loopback and two cores, the
# default of 64 KiB gives 416 MB/s written and 547 MB/s read, this 470 and 585, 4 MiB 505 and 625,
# but then every stream holds that much several times.
CHUNK_BYTES = 1024 * 1024

PIPELINE = (
    "access catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk tempurl"
    " authtoken s3api s3token keystoneauth copy container-quotas account-quotas slo dlo symlink"
    " versioned_writes proxy-server"
)


@dataclass(frozen=True)
class Settings:
    """What differs from one folder to another. All paths are relative to the folder."""

    hash_suffix: str
    account_port: int
    container_port: int
    object_port: int
    cache_port: int
    auth_url: str
    admin_password: str

    def ring_ports(self) -> tuple[str, ...]:
        """Return the ports of the rings as build_rings wants them."""
        return (
            f"account={self.account_port}",
            f"container={self.container_port}",
            f"object={self.object_port}",
        )


def write_configuration(etc: Path, settings: Settings) -> None:
    """Write all configuration files."""
    texts = {
        "swift": _swift(settings),
        "proxy-server": _proxy(settings),
        "account-server": _storage("account", settings.account_port),
        "container-server": _storage("container", settings.container_port),
        "object-server": _storage("object", settings.object_port) + _object_options(),
        "container-updater": _updater(),
    }
    for name, text in texts.items():
        write_private(etc / f"{name}.conf", text)


def _swift(settings: Settings) -> str:
    return f"""\
[swift-hash]
swift_hash_path_prefix =
swift_hash_path_suffix = {settings.hash_suffix}

[storage-policy:0]
name = Policy-0
default = yes
"""


def _defaults(port: int) -> str:
    # Swift wants a port for every process, also where it inherits a socket or listens nowhere.
    return f"""\
[DEFAULT]
bind_ip = {HOST}
bind_port = {port}
swift_dir = etc
devices = data
mount_check = false
log_level = WARNING
# Without /dev/log, Swift would look up "localhost", which a minimal system cannot resolve.
log_udp_host = 127.0.0.1
log_custom_handlers = allasfs.demo.serve_swift.log_to_stderr
client_timeout = {CLIENT_TIMEOUT_S}
# Storage may use the last byte of the disk: the folder is not the only thing on it.
fallocate_reserve = 0
"""


def _storage(kind: str, port: int) -> str:
    return f"""\
{_defaults(port)}
[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
recon_cache_path = run
node_timeout = {NODE_TIMEOUT_S}
conn_timeout = {NODE_TIMEOUT_S}
"""


def _object_options() -> str:
    return f"""\
# An object is in the listing when its PUT is answered, however busy the container server is.
container_update_timeout = {NODE_TIMEOUT_S}
# Data are synced to the disk as Swift does it everywhere (fsync at the end, and every 512 MiB).
disk_chunk_size = {CHUNK_BYTES}
network_chunk_size = {CHUNK_BYTES}
"""


def _updater() -> str:
    return f"""\
{_defaults(1)}
[pipeline:main]
pipeline = container-updater

[app:container-updater]
use = egg:swift#container
recon_cache_path = run
node_timeout = {NODE_TIMEOUT_S}
conn_timeout = {NODE_TIMEOUT_S}
# After a failed update Swift would leave the account alone for a minute.
account_suppression_time = 1
"""


def _proxy(settings: Settings) -> str:
    authority = settings.auth_url.removesuffix("/v3")
    service_user = f"""\
auth_type = password
auth_url = {settings.auth_url}
username = admin
password = {settings.admin_password}
project_name = admin
user_domain_id = default
project_domain_id = default"""
    return f"""\
{_defaults(1)}
[pipeline:main]
pipeline = {PIPELINE}

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = {NODE_TIMEOUT_S}
recoverable_node_timeout = {NODE_TIMEOUT_S}
conn_timeout = {NODE_TIMEOUT_S}
# There is one node only: to avoid it for a minute after errors would be to have none.
error_suppression_limit = 1000000000
object_chunk_size = {CHUNK_BYTES}
client_chunk_size = {CHUNK_BYTES}

[filter:access]
paste.filter_factory = allasfs.demo.access:filter_factory
log = log/access.log

[filter:cache]
use = egg:swift#memcache
memcache_servers = {HOST}:{settings.cache_port}
memcache_max_connections = 32

[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {authority}
{service_user}
# s3api and public containers come without a token.
delay_auth_decision = true
cache = swift.cache
include_service_catalog = false
service_token_roles_required = true
log_name = authtoken

[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member

[filter:s3api]
use = egg:swift#s3api
# Bucket names may be what Swift allows, as other clients make them.
dns_compliant_bucket_names = no

[filter:s3token]
use = egg:swift#s3token
auth_uri = {settings.auth_url}
delay_auth_decision = true
secret_cache_duration = 300
{service_user}

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
{_plain_filters()}"""


def _plain_filters() -> str:
    eggs = {
        "catch_errors": "catch_errors",
        "gatekeeper": "gatekeeper",
        "healthcheck": "healthcheck",
        "proxy-logging": "proxy_logging",
        "listing_formats": "listing_formats",
        "bulk": "bulk",
        "tempurl": "tempurl",
        "copy": "copy",
        "container-quotas": "container_quotas",
        "account-quotas": "account_quotas",
        "slo": "slo",
        "dlo": "dlo",
        "symlink": "symlink",
    }
    return "".join(f"\n[filter:{name}]\nuse = egg:swift#{egg}\n" for name, egg in eggs.items())
