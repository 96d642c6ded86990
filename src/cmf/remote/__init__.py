"""A hub over HTTP, as its clients hold it: one end of a transfer, an index, and an object store.

The only package that speaks to a network. Every answer is bounded before it is read, and every byte is checked again on
this side.
"""

from cmf.remote.client import HubClient
from cmf.remote.local import LocalHub
from cmf.remote.objects import HubObjects

__all__ = ["HubClient", "HubObjects", "LocalHub"]
