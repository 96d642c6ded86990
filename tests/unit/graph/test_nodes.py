import pytest

from cmf.errors import CmfError, UsageError
from cmf.graph import nodes
from cmf.model import digest as digests

ID = "00000001-0000-7000-8000-000000000001"
TEXTS = [
    f"execution:p/a:{ID}",
    f"execution:a/b/c/d/e/f:{ID}",
    "artifact:" + digests.EMPTY,
    "artifact:tree:" + digests.EMPTY,
    "record:" + "ab" * 32,
    "site:lab-1",
    "scope:p/a",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_key_and_its_text_tell_the_same(text: str) -> None:
    assert nodes.node_text(nodes.node_key(text, "other/scope")) == text


def test_the_node_scope_is_the_scope_of_who_says_it() -> None:
    assert nodes.node_text(nodes.node_key("scope", "p/a")) == "scope:p/a"


def test_no_two_nodes_share_a_key() -> None:
    assert len({nodes.node_key(text, "") for text in TEXTS}) == len(TEXTS)
    assert nodes.scope_of(nodes.execution_key("p/a", ID)) == "p/a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"execution:p/a:{'-' * 36}",
        f"execution:p/a:{'a' * 35}-",
        "scope:",
        "scope:p",
        "artifact:x",
        "record:ab",
    ],
)
def test_a_text_that_names_no_node_is_refused(text: str) -> None:
    with pytest.raises(CmfError) as caught:
        nodes.node_key(text, "p/a")
    assert isinstance(caught.value, UsageError) or text.startswith("artifact:")
