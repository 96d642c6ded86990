"""Addresses without their secrets: what of a URI may enter a record."""

from __future__ import annotations

import re

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCP = re.compile(r"(?:[^/@]*@)+(?P<rest>[^/:@]+:.*)", re.DOTALL)
_SECRET = re.compile(
    r"token|secret|passw|pwd|auth|cred|session|api|key|(?:^|[-_])(?:sig|sas|se|sv|sp|sr)(?:$|nature)|^x-(?:amz|goog)-",
    re.IGNORECASE,
)


def is_uri(text: str) -> bool:
    """Tell whether a text is a URI with an authority (``scheme://…``) rather than a path."""
    return _URI.match(text) is not None


def bare(uri: str, *, query: bool = True) -> str:
    """Return a URI without user, password and fragment; and without its query if that may hold a secret.

    Of a query one parameter that looks like a secret condemns the whole, since its neighbours sign or name it; with
    ``query=False`` none stays. Git's ``user@host:path`` form loses its user too. A local path stays as it is.
    """
    match = _URI.match(uri)
    if match is None:
        scp = _SCP.fullmatch(uri)
        return re.split("[?#]", scp["rest"])[0] if scp else uri
    rest, _, _ = uri[match.end() :].partition("#")
    rest, _, parameters = rest.partition("?")
    authority, slash, path = rest.partition("/")
    # The last '@' ends the user information, as browsers and git read it: an unescaped '@' in a password stays out.
    found = match.group() + authority.rpartition("@")[2] + slash + path
    names = [part.partition("=")[0] for part in re.split("[&;]", parameters)]
    if not query or not parameters or any(_SECRET.search(name) for name in names):
        return found
    return f"{found}?{parameters}"
