"""Addresses of one file of a bucket that let whoever has them do one thing, for a while: S3's signature, version 4.

The clouds' client signs an address, but no headers with it. A file that is put there could then have any bytes. So its
signature is made anew over the headers that the sender must send: which bytes they are, how many, and that no file is
there yet. The store refuses a request without them, and other bytes than they say.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import urllib.parse
from collections.abc import Mapping

from cmf.model import digest as digests

CHECKSUM = "x-amz-checksum-sha256"
_ALGORITHM = "AWS4-HMAC-SHA256"


def put_headers(digest: str, size: int) -> dict[str, str]:
    """Return the headers that name the bytes of a file that is made: a store that knows them refuses all others."""
    raw = bytes.fromhex(digest.removeprefix(digests.FILE))
    return {CHECKSUM: base64.b64encode(raw).decode(), "content-length": str(size), "if-none-match": "*"}


def bound(url: str, secret: str, headers: Mapping[str, str]) -> str:
    """Return a signed address for PUT, signed anew so that it is good only together with some headers.

    ``secret`` is that of the key which the address was signed with.
    """
    parts = urllib.parse.urlsplit(url)
    query = dict(urllib.parse.parse_qsl(parts.query, strict_parsing=True))
    del query["X-Amz-Signature"]
    signed = {"host": parts.netloc, **headers}
    names = sorted(signed)
    query["X-Amz-SignedHeaders"] = ";".join(names)
    text = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(query.items()))
    request = ["PUT", parts.path, text, *(f"{name}:{signed[name]}" for name in names), "", ";".join(names)]
    hashed = hashlib.sha256("\n".join([*request, "UNSIGNED-PAYLOAD"]).encode()).hexdigest()
    scope = query["X-Amz-Credential"].split("/")[-4:]
    key = ("AWS4" + secret).encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    told = "\n".join([_ALGORITHM, query["X-Amz-Date"], "/".join(scope), hashed])
    signature = hmac.digest(key, told.encode(), "sha256").hex()
    return urllib.parse.urlunsplit(parts._replace(query=f"{text}&X-Amz-Signature={signature}"))


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="-_.~")
