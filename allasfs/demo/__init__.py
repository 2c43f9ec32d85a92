"""A real OpenStack Swift and Keystone on the loopback interface, in one folder.

For trying allasfs without an account anywhere, and for its tests and benchmarks. Needs the
packages of allasfs[demo]; nothing here is used by a mount.
"""

from allasfs.demo.access import Request
from allasfs.demo.cloud import Cloud
from allasfs.demo.credentials import ApplicationCredential, Credentials, KeyPair, Token
from allasfs.demo.errors import DemoError, PackagesMissing, ServiceDied

__all__ = [
    "ApplicationCredential",
    "Cloud",
    "Credentials",
    "DemoError",
    "KeyPair",
    "PackagesMissing",
    "Request",
    "ServiceDied",
    "Token",
]
