"""A hub within the test's own process: the product's, but for a database in memory and no HTTP."""

from pathlib import Path
from unittest import mock

from cmf.hub.access import console
from cmf.hub.service import Hub
from cmf.model import wire
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer


class InnerHub:
    """A hub, and who may do what there."""

    def __init__(self, folder: Path) -> None:
        with mock.patch("cmf.hub.service.open_database", return_value=Sqlite(None)):
            self.hub = Hub(folder)
        self.store = self.hub.store

    def lets(self, name: str, key: bytes, *roles: tuple[str, str]) -> LocalPeer:
        """Let a key in with some roles on some prefixes; return the hub as its end of a transfer."""
        token = ""
        for role, prefix in roles:
            asked = wire.AskInvite(name=name, role=wire.Role(prefix, role), expires_s=60)
            code = self.hub.access.invite(console(), asked).secret
            token, _ = self.hub.auth.enrol(code, key, name, now=self.hub.now())
        return self.hub.pushing.end(self.hub.auth.caller(token, now=self.hub.now()))
