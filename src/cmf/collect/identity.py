"""Who a store is: its site's id and secret, and the key of each user who seals.

The first collector makes them, by a file that is linked in place: whoever comes second uses what is there.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from cmf import signing
from cmf.errors import CorruptError, UnsupportedError


class Site(msgspec.Struct, frozen=True):
    """One store's identity: its random id, and the secret that salts its records."""

    id: str
    secret: bytes


def site(folder: Path) -> Site:
    """Return the identity of the store in a folder; the first collector makes it.

    A store whose `site` file has another inode than it names was copied: it gets a new identity, so that the copy and
    the original never write to one stream.
    """
    secret = signing.kept_secret(folder / "keys" / "secret")
    path = folder / "site"
    for _ in range(3):
        try:
            held = msgspec.json.decode(path.read_bytes())
            if isinstance(held, dict) and held.get("v", 1) > 1:
                raise UnsupportedError(f"{path} has a newer format.", hint="Upgrade cmf.", kind="newer-format")
            if held["inode"] == path.stat().st_ino:
                return Site(str(held["id"]), secret)
            for key in (folder / "keys").glob("[0-9]*"):
                key.unlink(missing_ok=True)
            _make_site(path, replace=True)
        except FileNotFoundError:
            _make_site(path, replace=False)
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise CorruptError(
                f"{path} is damaged.", hint="Remove it: this store then gets a new identity and loses nothing."
            ) from error
    raise CorruptError(f"{path} cannot be made.", kind="disk")


def _make_site(path: Path, *, replace: bool) -> None:
    temporary = path.with_name(f".site.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            inode = os.fstat(file.fileno()).st_ino
            file.write(msgspec.json.encode({"id": os.urandom(16).hex(), "inode": inode, "v": 1}))
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        pass  # another collector was first: its identity is used
    except OSError as error:
        raise CorruptError(f"{path} cannot be made: {error.strerror}.", kind="disk") from error
    finally:
        temporary.unlink(missing_ok=True)
