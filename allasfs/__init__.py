"""allasfs: mount an OpenStack Swift account (such as CSC's Allas) as a directory."""

__version__ = "0.1.0"
