"""Ed25519 keys: made, kept in a file of mode 0600, used to sign; and the one function that verifies.

Knows nothing of what is signed.
"""

from __future__ import annotations

import os
from pathlib import Path

import nacl.bindings as sodium
from nacl.exceptions import BadSignatureError

from cmf.errors import CorruptError, DeniedError
from cmf.model.rotation import Vouch


class Key:
    """A private key. ``public`` is the raw 32-byte public key, ``vouched`` what the keys before it said of it."""

    def __init__(self, seed: bytes, vouched: tuple[Vouch, ...] = ()) -> None:
        self.vouched = vouched
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


def replace_secret(path: Path, data: bytes) -> None:
    """Put other secret bytes into a file in one step: a crash leaves what was there, or these. They are durable."""
    temporary = _written(path, data)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _make(path: Path, data: bytes) -> bytes:
    temporary = _written(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_bytes()
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return data


def _written(path: Path, data: bytes) -> Path:
    """Write a file of mode 0600 beside a path, synced; return where."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # ctrl-C too: no half of a secret stays
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
