import pytest

from cmf.worktree import uri


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://example.org/a/b.git", "https://example.org/a/b.git"),
        ("https://ada@example.org/a.git", "https://example.org/a.git"),
        ("https://ada:s3cret@example.org:8443/a.git", "https://example.org:8443/a.git"),
        ("https://ada:p@ss@example.org/a.git", "https://example.org/a.git"),
        ("https://s3cret@example.org", "https://example.org"),
        ("ssh://git@example.org:22/a.git", "ssh://example.org:22/a.git"),
        ("https://example.org/a@b/c", "https://example.org/a@b/c"),
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("https://example.org/x?version=3", "https://example.org/x?version=3"),
        ("https://example.org/x?version=3&access_token=s3cret", "https://example.org/x"),
        ("https://example.org/x?X-Amz-Signature=s3cret&versionId=1", "https://example.org/x"),
        ("https://example.org/x?sv=2022&se=2030&sig=s3cret", "https://example.org/x"),
        ("https://example.org/x#token=s3cret", "https://example.org/x"),
        ("git@example.org:team/a.git", "example.org:team/a.git"),
        ("ada:s3cret@example.org:team/a.git", "example.org:team/a.git"),
        ("git@example.org:team/a.git?token=s3cret", "example.org:team/a.git"),
        ("/srv/git/a.git", "/srv/git/a.git"),
        ("../a.git", "../a.git"),
        ("/srv/ada@home/a.git", "/srv/ada@home/a.git"),
    ],
)
def test_an_address_loses_its_secrets_and_nothing_else(address: str, expected: str) -> None:
    assert uri.bare(address) == expected
    assert "s3cret" not in uri.bare(address, query=False)


def test_a_query_can_be_refused_altogether() -> None:
    assert uri.bare("https://example.org/x?version=3", query=False) == "https://example.org/x"


@pytest.mark.parametrize(
    ("text", "answer"),
    [("s3://bucket/x", True), ("https://x", True), ("a/b", False), ("c:/x", False), ("git@host:a", False)],
)
def test_a_uri_is_told_from_a_path(text: str, *, answer: bool) -> None:
    assert uri.is_uri(text) is answer
