"""What is signed of a message: the pre-authentication encoding of DSSE, v1. It ties the bytes to what they are."""

from __future__ import annotations


def encoded(kind: bytes, said: bytes) -> bytes:
    """Return the bytes to sign for a payload of this type."""
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(said), said)
