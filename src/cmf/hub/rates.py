"""How much anybody may ask of a hub in a while: a bucket of tokens for each, in the memory of this process.

With several workers each counts for itself, so all of them together let as many times more pass. What is kept is
bounded: of more who ask than `WHOM_MAX`, those who asked longest ago are forgotten, and begin anew.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from cmf.errors import UnreachableError

RATE = 500.0
"""Requests a second of one principal. A site that pushes all the time makes some ten."""
STRANGERS_RATE = 10.0
"""Requests a second of one address that come without a token that is known: joining, and guessing."""
BURST_SECONDS = 10
"""So many seconds' requests may come at once."""
WHOM_MAX = 10_000


class TooManyError(UnreachableError):
    """Somebody asks more than they may; the same request succeeds in ``retry_s`` seconds."""

    def __init__(self, whom: str, rate: float, retry_s: int) -> None:
        super().__init__(
            f"{whom} asks more of this hub than {rate:g} requests a second.",
            hint=f"Wait {retry_s} s and ask again. Nothing is lost.",
            kind="rate",
        )
        self.retry_s = retry_s


class Rate:
    """So many requests a second, of each who asks; 0 is as many as they like. Safe to call from several threads."""

    def __init__(self, a_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.a_second = a_second
        self._clock = clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, whom: str, *, named: str = "") -> None:
        """Count a request of ``whom``; `TooManyError` if it is one too many, which calls them ``named``."""
        if not self.a_second:
            return
        most = self.a_second * BURST_SECONDS
        with self._lock:
            now = self._clock()
            left, at = self._left.pop(whom, (most, now))
            left = min(most, left + (now - at) * self.a_second)
            self._left[whom] = (left - 1 if left >= 1 else left, now)
            if len(self._left) > WHOM_MAX:
                self._left.popitem(last=False)
        if left < 1:
            raise TooManyError(named or whom, self.a_second, max(1, math.ceil((1 - left) / self.a_second)))

    def __len__(self) -> int:
        return len(self._left)


class Rates:
    """The rates of one process of a hub: of who has a token, and of addresses that come without one."""

    def __init__(self, a_second: float = RATE) -> None:
        self.principals = Rate(a_second)
        self.strangers = Rate(STRANGERS_RATE if a_second else 0.0)

    def caller(self, principal: int, name: str) -> None:
        """Count a request of a principal; `TooManyError`."""
        self.principals.take(str(principal), named=name)

    def stranger(self, address: str) -> None:
        """Count a request of an address that has no token that is known; `TooManyError`. IPv6 is counted by its /64."""
        whom = network(address)
        self.strangers.take(whom, named=f"Your address {whom}".strip())


def network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 network of 64 bits; "" for what is neither."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed), 64), strict=False))
    return str(parsed)
