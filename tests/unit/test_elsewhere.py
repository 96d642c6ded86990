"""Which version lies at an address, as a real web server tells it: and what it costs when it tells nothing."""

import base64
import hashlib
import threading
from collections.abc import Iterator

import pytest

from cmf import elsewhere
from cmf.elsewhere import Elsewhere
from cmf.errors import CmfError, DeniedError, NotFoundError, UnreachableError, UnsupportedError, UsageError
from cmf.model import alias
from cmf.remote import address
from tests import web
from tests.web import Answer

BODY = b"id,label\n" * 1000
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()
MODIFIED = "Wed, 01 Jan 2025 00:00:00 GMT"
seen: dict[str, str] = {}
waiting = threading.Event()
ANSWERS = {
    "/etag": Answer({"etag": '"v1"', "last-modified": MODIFIED, "x-amz-version-id": "7"}, BODY),
    "/weak": Answer({"etag": 'W/"v1"'}, BODY),
    "/modified": Answer({"last-modified": MODIFIED}, BODY),
    "/nothing": Answer({}, BODY),
    "/only-get": Answer({"etag": '"g"'}, BODY, heads=False),
    "/cut": Answer({"etag": '"c"', "content-length": "99999"}, BODY),
    "/denied": Answer({}, status=403),
    "/broken": Answer({}, status=500),
    "/moved": Answer({"location": "/etag"}, status=302),
    "/circle": Answer({"location": "/circle"}, status=302),
    "/asks": Answer({"etag": '"a"'}, BODY, before=seen.update),
    "/hangs": Answer({}, before=lambda _: waiting.wait(60)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    with web.running(ANSWERS) as found:
        yield found
        waiting.set()


@pytest.fixture
def url(server: tuple[str, list[str]]) -> str:
    server[1].clear()
    return server[0]


def test_an_etag_names_a_version_without_reading_a_byte(server: tuple[str, list[str]], url: str) -> None:
    found = Elsewhere({}).version(f"{url}/etag", read=False)
    assert alias.decode(found.alias) == f"etag:v1 {url}/etag"
    assert (found.digest, found.size) == (alias.digest(f"etag:v1 {url}/etag"), len(BODY))
    assert found.attributes == {"etag": "v1", "version": "7", "modified": MODIFIED, "alias": True}
    assert server[1] == ["HEAD /etag"]


def test_read_once_it_is_the_hash_of_its_bytes_and_tells_the_version_too(
    server: tuple[str, list[str]], url: str
) -> None:
    found = Elsewhere({}).version(f"{url}/etag", read=True)
    assert (found.digest, found.size) == (SHA, len(BODY))
    assert alias.decode(found.alias) == f"etag:v1 {url}/etag"
    assert "alias" not in found.attributes
    assert server[1] == ["GET /etag"]


@pytest.mark.parametrize(
    ("path", "of"),
    [
        ("/weak", "etag:W/v1 {}/weak"),
        ("/modified", f"modified:{MODIFIED} {len(BODY)} {{}}/modified"),
        ("/only-get", "etag:g {}/only-get"),
        ("/moved", "etag:v1 {}/moved"),
        ("/etag?page=2", "etag:v1 {}/etag?page=2"),
        ("/etag?token=hidden#part", "etag:v1 {}/etag"),
    ],
)
def test_a_version_is_named_by_what_its_server_says(url: str, path: str, of: str) -> None:
    assert alias.decode(Elsewhere({}).version(url + path, read=False).alias) == of.format(url)


def test_where_a_server_names_no_version_only_its_bytes_can(url: str) -> None:
    with pytest.raises(UnsupportedError, match="names no version"):
        Elsewhere({}).version(f"{url}/nothing", read=False)
    found = Elsewhere({}).version(f"{url}/nothing", read=True)
    assert (found.digest, found.alias, found.attributes) == (SHA, b"", {"policy": "reference"})


@pytest.mark.parametrize(
    ("path", "read", "kind"),
    [
        ("/lacks", False, NotFoundError),
        ("/denied", False, DeniedError),
        ("/broken", False, UnreachableError),
        ("/circle", False, UnreachableError),
        ("/cut", True, UnreachableError),
    ],
)
def test_what_goes_wrong_is_told_without_the_secrets_of_the_address(
    url: str, path: str, read: bool, kind: type[CmfError]
) -> None:
    secret = url.replace("://", "://me:hunter2@") + path + "?token=hunter2"
    with pytest.raises(kind) as caught:
        Elsewhere({}).version(secret, read=read)
    assert "hunter2" not in str(caught.value)
    assert path in caught.value.message


def test_a_password_in_an_address_goes_to_its_server_and_nowhere_else(url: str) -> None:
    found = Elsewhere({}).version(url.replace("://", "://me:hunter%32@") + "/asks", read=False)
    assert base64.b64decode(seen["authorization"].removeprefix("Basic ")) == b"me:hunter2"
    assert alias.decode(found.alias) == f"etag:a {url}/asks"


def test_a_password_does_not_follow_to_another_host(url: str) -> None:
    found: dict[str, str] = {}
    with web.running({"/asks": Answer({"etag": '"b"'}, before=found.update)}) as (other, _):
        ANSWERS["/away"] = Answer({"location": f"{other}/asks"}, status=302)
        Elsewhere({}).version(url.replace("://", "://me:hunter2@") + "/away", read=False)
    assert found
    assert "authorization" not in found


def test_a_host_that_lets_its_time_pass_is_not_asked_again(
    server: tuple[str, list[str]], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(elsewhere, "PATIENCE_SECONDS", 0.1)
    places = Elsewhere({})
    with pytest.raises(UnreachableError, match="within"):
        places.version(f"{url}/hangs", read=False)
    with pytest.raises(UnreachableError, match="did not answer before"):
        places.version(f"{url}/etag", read=False)
    assert "HEAD /etag" not in server[1]


def test_a_server_that_is_not_there_or_is_silent_is_an_error_soon(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "READ_SECONDS", 0.2)
    with pytest.raises(UnreachableError, match="takes too long"):
        address.look(f"{url}/hangs", {}, read=False)
    with pytest.raises(UnreachableError, match="no connection"):
        address.look("http://127.0.0.1:9/x", {}, read=False)


@pytest.mark.parametrize(
    "text", ["hdfs://host/x", "file:///etc/passwd", "ssh://host", "ssh://me:hunter2@host/x", "s3://bucket", "s3:///x"]
)
def test_an_address_that_cannot_be_looked_up_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Elsewhere({}).version(text, read=False)


def test_an_alias_is_told_from_other_bytes() -> None:
    assert alias.decode(alias.encode("etag:x y")) == "etag:x y"
    for data in (b"", b"{}", b'{"cmf":"alias"', b'{"cmf":"alias","of":7,"v":1}', b'{"cmf":"alias"' + b" " * 5000):
        assert alias.decode(data) == ""
