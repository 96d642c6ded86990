"""Ed25519 keys: made, kept in a file of mode 0600, used to sign; and the one function that verifies.

Knows nothing of what is signed.
"""

from __future__ import annotations

import os
from pathlib import Path

import nacl.bindings as sodium
from nacl.exceptions import BadSignatureError

from cmf.errors import CorruptError, DeniedError


class Key:
    """A private key. ``public`` is the raw 32-byte public key."""

    def __init__(self, seed: bytes) -> None:
        self.public, self._secret = sodium.crypto_sign_seed_keypair(seed)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of a message."""
        return sodium.crypto_sign(message, self._secret)[:64]


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether this is the key's signature of the message."""
    if len(public) != 32 or len(signature) != 64:
        return False
    try:
        sodium.crypto_sign_open(signature + message, public)
    except (BadSignatureError, ValueError):
        return False
    return True


def kept_secret(path: Path, size: int = 32) -> bytes:
    """Return the random bytes kept in a file of mode 0600; make them first if there is no such file.

    Of several processes that make it at once, one wins and all get its bytes.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return _make(path, os.urandom(size))
    except OSError as error:
        raise DeniedError(
            f"{path} cannot be read: {error.strerror}.", hint="It belongs to the user who made this store."
        ) from error
    if len(data) != size:
        raise CorruptError(f"{path} is damaged: it has {len(data)} bytes instead of {size}.", kind="key")
    return data


def _make(path: Path, data: bytes) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return path.read_bytes()
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return data
