"""How segments come into a hub: verified, authorized for who brings them, and committed, those of many pushes at once.

What is asked of the database (which streams and keys are known) is asked once for all that is admitted together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from cmf.errors import CmfError
from cmf.hub.auth import Auth, Caller, Holder
from cmf.hub.bodies import framed
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model import wire
from cmf.model.exchange import Admission, View
from cmf.model.rotation import Vouch
from cmf.model.segment import Genesis, Segment
from cmf.store.batch import Item
from cmf.store.sql import SqlStore
from cmf.transfer import Authorize, Brought, LocalPeer, admit_all

SEGMENTS_AT_ONCE = 256
BYTES_AT_ONCE = 512 << 10
"""How much of one push is committed together: what a crash may have sent once more."""


class Push(NamedTuple):
    """One push: who brings it, its body, and whether its end says which objects are lacking in its scopes."""

    caller: Caller
    body: bytes
    wanted: bool = False


class Pushing:
    """The way of segments into one hub. ``wanted``: returns the objects that are lacking in some scopes."""

    def __init__(
        self,
        store: SqlStore,
        auth: Auth,
        *,
        now: Callable[[], int],
        wanted: Callable[[Sequence[str]], Sequence[tuple[str, str]]],
    ) -> None:
        self._store = store
        self._auth = auth
        self._now = now
        self._wanted = wanted

    def end(self, caller: Caller) -> LocalPeer:
        """Return this hub's store as one end of a transfer; what is admitted there, this caller brings."""
        return LocalPeer(self._store, authorize=self._authorizes(caller), by=caller.principal)

    def push(self, push: Push) -> Iterator[bytes]:
        """Admit the segments of a body; return frames that say what became of each, then the end.

        Each is committed before its frame is made. A body that is not segment frames is refused before anything is.
        """
        return self._push(push, list(framed(push.body, wire.SEGMENT, "push")))

    def push_all(self, pushes: Sequence[Push]) -> list[bytes | CmfError]:
        """Admit the segments of several small pushes, committed together; return what `push` does of each, whole."""
        bodies: list[list[bytes] | CmfError] = []
        for push in pushes:
            try:
                bodies.append(list(framed(push.body, wire.SEGMENT, "push")))
            except CmfError as error:
                bodies.append(error)
        brought = [(push.caller, body) for push, body in zip(pushes, bodies, strict=True) if isinstance(body, list)]
        admitted = iter(self._admit(brought))
        answers: list[bytes | CmfError] = []
        for push, body in zip(pushes, bodies, strict=True):
            if isinstance(body, list):
                found = next(admitted)
                answers.append(_frames(found) + self._ended(push, len(found), _scopes(found)))
            else:
                answers.append(body)
        return answers

    def _push(self, push: Push, found: Sequence[bytes]) -> Iterator[bytes]:
        scopes: set[str] = set()
        for page in _pages(found):
            (admitted,) = self._admit([(push.caller, page)])
            scopes |= _scopes(admitted)
            yield _frames(admitted)
        yield self._ended(push, len(found), scopes)

    def _ended(self, push: Push, count: int, scopes: Iterable[str]) -> bytes:
        asked = sorted(scope for scope in scopes if push.caller.may_send(scope)) if push.wanted else ()
        lacking = self._wanted(asked) if asked else ()
        end = wire.End(count=count, wanted=list(lacking[: wire.WANTED_MAX]), more=len(lacking) > wire.WANTED_MAX)
        return wire.frame(wire.END, wire.encode(end))

    def _admit(self, brought: Sequence[tuple[Caller, Sequence[bytes]]]) -> list[list[Admission]]:
        holders: dict[bytes, Holder] = {}
        return admit_all(
            self._store,
            [Brought(found, self._authorizes(caller, holders), caller.principal) for caller, found in brought],
            meet=lambda keys: holders.update(self._auth.holders(keys)),
        )

    def _authorizes(self, caller: Caller, holders: Mapping[bytes, Holder] | None = None) -> Authorize:
        """Return what authorizes the segments that a caller brings; ``holders`` as in `Auth.authorize`."""
        authorized: set[tuple[str, bytes, bool]] = set()

        def authorize(scope: str, key: bytes, segment: Segment, items: Sequence[Item]) -> None:
            redacts = any(model.redacts(item.record) for item in items)
            if (scope, key, redacts) not in authorized:
                roles = ("write", "redact") if redacts else ("write",)
                vouched = partial(self._vouched, segment)
                self._auth.authorize(caller, scope, key, roles=roles, vouched=vouched, now=self._now(), holders=holders)
                authorized.add((scope, key, redacts))

        return authorize

    def _vouched(self, segment: Segment) -> tuple[Vouch, ...]:
        """Return what the keys before a segment's writer said: its stream's first header has it."""
        fields = segment.fields
        if not isinstance(fields, Genesis):
            found = next(iter(self._store.get([segment.stream], View())), b"")
            fields = segments.from_wire(found).fields if found else fields
        return fields.vouched if isinstance(fields, Genesis) else ()


def _pages(found: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield segments, so many of them that they may be committed together."""
    page: list[bytes] = []
    size = 0
    for data in found:
        if page and (len(page) == SEGMENTS_AT_ONCE or size + len(data) > BYTES_AT_ONCE):
            yield page
            page, size = [], 0
        page.append(data)
        size += len(data)
    if page:
        yield page


def _scopes(admitted: Sequence[Admission]) -> set[str]:
    return {one.scope for one in admitted if one.outcome != "refused"}


def _frames(admitted: Sequence[Admission]) -> bytes:
    return b"".join(wire.frame(wire.ADMISSION, wire.encode(one)) for one in admitted)
