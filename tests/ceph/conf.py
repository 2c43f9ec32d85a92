"""The configuration of the smallest Ceph: one monitor, one store in memory, one gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from allasfs.demo import Credentials
from allasfs.demo.process import HOST

# Roles of Keystone that open an account.
ROLES = "admin, member"
# More than the tests ever store at once; what is deleted is given back after GC_WAIT_S.
DEVICE_BYTES = 8 * 1024**3
GC_WAIT_S = 30

# A gateway's name for Ceph. Every gateway of a cluster has it: they share nothing but the data.
GATEWAY = "client.rgw"


@dataclass(frozen=True)
class Settings:
    """What differs from one cluster to another."""

    folder: Path
    fsid: str
    mon_port: int
    service: Credentials  # the user as whom the gateway asks Keystone about tokens


def text(settings: Settings) -> str:
    """Return ceph.conf.

    The daemons trust each other (no cephx): all of it listens on the loopback interface only.
    """
    folder, service = settings.folder, settings.service
    return f"""\
[global]
fsid = {settings.fsid}
mon_host = [v2:{HOST}:{settings.mon_port}/0]
public_addr = {HOST}
cluster_addr = {HOST}
ms_bind_msgr1 = false
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# Nothing outside this folder, and no trace of a machine's own Ceph.
keyring = {folder}/keyring
run_dir = {folder}/run
crash_dir = {folder}/crash
admin_socket =
pid_file =
log_file = {folder}/log/$name.log
log_to_stderr = false
err_to_stderr = true
mon_cluster_log_file = {folder}/log/cluster.log
debug_ms = 0/0
max_open_files = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 2
osd_pool_default_pgp_num = 2
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0

[mon]
# Changes of the maps are not collected for a second each: a start makes a dozen of them.
paxos_propose_interval = 0.05
mon_data = {folder}/mon
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
# A test machine's disk may be nearly full: what the monitor writes is small.
mon_data_avail_warn = 1
mon_data_avail_crit = 0
mon_mgr_mkfs_grace = 1000000000

[osd]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = {DEVICE_BYTES}

[{GATEWAY}]
rgw_data = {folder}/run
# The gateway wants encrypted talk with the monitor, which is impossible without cephx.
ms_mon_client_mode = crc secure
rgw_enable_apis = s3, swift, swift_auth
rgw_thread_pool_size = 32
rgw_swift_account_in_url = true
# Bucket names are of all projects together, as on Allas.
rgw_keystone_implicit_tenants = false
rgw_keystone_api_version = 3
rgw_keystone_url = {service.auth_url.removesuffix("/v3")}
rgw_keystone_admin_user = {service.username}
rgw_keystone_admin_password = {service.password}
rgw_keystone_admin_project = {service.project_name}
rgw_keystone_admin_domain = Default
rgw_keystone_accepted_roles = {ROLES}
rgw_s3_auth_use_keystone = true
rgw_gc_obj_min_wait = {GC_WAIT_S}
rgw_gc_processor_period = {GC_WAIT_S}
rgw_gc_processor_max_time = {GC_WAIT_S}
"""
