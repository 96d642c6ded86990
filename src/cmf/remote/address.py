"""What lies at an address, told by its server: which version of it, and how large. Read only if asked.

Known are `https://` and `http://`, the buckets `s3://`, `gs://` and `az://`, and files by `ssh://`. Credentials of a
bucket come from the environment, those for ssh from the user's files and agent; what an address itself holds of them
goes to its server and nowhere else: not into an error, either.
"""

from __future__ import annotations

import contextlib
import hashlib
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import urllib3
from urllib3.util import Retry, Timeout

from cmf.errors import CmfError, DeniedError, NotFoundError, UnreachableError, UsageError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES
from cmf.objects.source import changing
from cmf.worktree import uri

CLOUDS = ("s3", "gs", "az")
SSH = "ssh"
SCHEMES = ("https", "http", *CLOUDS, SSH)
CONNECT_SECONDS = 3.0
READ_SECONDS = 8.0
REDIRECTS_MAX = 5
_NO_HEAD = (400, 403, 405, 501)
"""How servers answer that don't know HEAD, or whose signed addresses are signed for GET alone."""


class Looked(NamedTuple):
    """What a server says of an address: each "" or None if it doesn't. ``digest`` only if the bytes were read.

    ``etag`` without its quotation marks, ``modified`` as its server spells it, ``size`` in bytes.
    """

    etag: str
    version: str
    modified: str
    size: int | None
    digest: str = ""


def look(address: str, options: Mapping[str, str], *, read: bool) -> Looked:
    """Ask the server of an address what lies there; with ``read``, stream it once through SHA-256.

    What the server says and the bytes are then of one and the same answer. ``options``: settings of a cloud's client.
    Nothing there is a `NotFoundError`, not allowed, or a host whose key is not known, a `DeniedError`; no or a cut
    answer an `UnreachableError`; a file that changes while it is read a `CorruptError`; an address of another kind a
    `UsageError`.
    """
    scheme = address.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise UsageError(
            f"What lies at {uri.bare(address)} cannot be looked up.", hint=f"Known are {', '.join(SCHEMES)}."
        )
    if scheme == SSH:
        return _by_ssh(f"{SSH}{address[len(SSH) :]}", read=read)
    return _in_cloud(address, options, read=read) if scheme in CLOUDS else _by_http(address, read=read)


def _by_ssh(address: str, *, read: bool) -> Looked:
    from cmf.objects.ssh.file import SshFile

    with contextlib.closing(SshFile(address)) as file:
        modified, size = file.look()
        found = Looked("", "", modified, size)
        if not read:
            return found
        found = _hashed(found, file.chunks(size), address)
        if file.look() != (modified, size):
            raise changing(uri.bare(address))
        return found


def _in_cloud(address: str, options: Mapping[str, str], *, read: bool) -> Looked:
    from cmf.objects.cloud import CloudBucket

    scheme, _, rest = address.partition("://")
    bucket, _, name = rest.partition("/")
    if not bucket or not name:
        raise UsageError(f"{uri.bare(address)} names no object.", hint="Such as s3://BUCKET/NAME.")
    source = CloudBucket(f"{scheme.lower()}://{bucket}", options, seconds=READ_SECONDS)
    if not read:
        return Looked(*source.look(name))
    found, chunks = source.stream(name)
    return _hashed(Looked(*found), chunks, address)


def _by_http(address: str, *, read: bool) -> Looked:
    parts = urllib.parse.urlsplit(address)
    secret = parts.netloc.rpartition("@")[0]
    headers = {"accept-encoding": "identity"}
    if secret:
        headers |= urllib3.util.make_headers(basic_auth=urllib.parse.unquote(secret))
    asked = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    retries = Retry(total=REDIRECTS_MAX, connect=0, read=0, status=0, other=0, redirect=REDIRECTS_MAX)
    timeout = Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    try:
        with urllib3.PoolManager(retries=retries, timeout=timeout, headers=headers) as pool:
            answer = pool.request("GET" if read else "HEAD", asked, preload_content=False)
            if not read and answer.status in _NO_HEAD:
                answer.close()
                answer = pool.request("GET", asked, preload_content=False)
            try:
                if answer.status != 200:
                    raise _refused(address, answer.status)
                found = _said(answer.headers)
                return _hashed(found, answer.stream(CHUNK_BYTES, decode_content=False), address) if read else found
            finally:
                answer.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        if isinstance(error, CmfError):
            raise
        raise UnreachableError(f"{uri.bare(address)} does not answer: {_why(error)}.", kind="remote") from None


def _said(headers: Mapping[str, str]) -> Looked:
    length = headers.get("content-length", "")
    etag = headers.get("etag", "").strip()
    return Looked(
        etag="W/" + etag[2:].strip('"') if etag.startswith("W/") else etag.strip('"'),
        version=headers.get("x-amz-version-id", ""),
        modified=headers.get("last-modified", ""),
        size=int(length) if length.isascii() and length.isdigit() and len(length) <= 15 else None,
    )


def _hashed(found: Looked, chunks: Iterable[bytes], address: str) -> Looked:
    hashed, size = hashlib.sha256(), 0
    for chunk in chunks:
        hashed.update(chunk)
        size += len(chunk)
    if found.size not in (None, size):
        raise UnreachableError(f"{uri.bare(address)} was cut short while it was read.", kind="remote")
    return found._replace(size=size, digest=digests.FILE + hashed.hexdigest())


def _refused(address: str, status: int) -> CmfError:
    shown = uri.bare(address)
    if status in (404, 410):
        return NotFoundError(f"There is nothing at {shown}.", kind="remote")
    if status in (401, 403):
        return DeniedError(f"{shown} refuses us ({status}).", kind="remote")
    return UnreachableError(f"{shown} answers {status}.", kind="remote")


def _why(error: BaseException) -> str:
    """Return what went wrong without the address, which may hold a secret."""
    while isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # a time-out too, says its class
        return "no connection"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "it takes too long"
    if isinstance(error, urllib3.exceptions.ResponseError):
        return "it leads from one address to the next"
    return "no connection" if isinstance(error, urllib3.exceptions.HTTPError | OSError) else "no such address"
