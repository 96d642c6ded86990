"""How who presents an invite shows that they hold the key that they present.

A public key is no secret: any stream's first header has one. So the key signs the invite, and the hub's own key: what
was said with it serves for no other invite, and at no other hub.
"""

from __future__ import annotations

import hashlib

from cmf.model import dsse

PAYLOAD_TYPE = b"application/vnd.cmf.enrolment.v1"


def payload(invite: str, key: str, hub: str) -> bytes:
    """Return what a key (hex) signs to be enrolled at the hub that has that key (hex); of the invite its SHA-256."""
    hashed = hashlib.sha256(invite.encode()).hexdigest()
    said = f'{{"hub":"{hub}","invite":"{hashed}","key":"{key}","v":1}}'
    return dsse.encoded(PAYLOAD_TYPE, said.encode())
