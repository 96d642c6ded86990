"""What a store follows of a hub: widened by what is pulled, limited when told so."""

from hypothesis import given
from hypothesis import strategies as st

from cmf import following
from cmf.model.exchange import EVERYTHING, View
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite

GLOBS = st.lists(st.sampled_from(["a/*", "b/*", "c/train"]), max_size=2).map(tuple)
VIEWS = st.builds(
    View,
    scopes=GLOBS,
    sites=st.sampled_from([(), ("lab",), ("edge",)]),
    where=st.sampled_from(["", "status = failed"]),
)
STREAMS = [(scope, site) for scope in ("a/x", "b/x", "c/train", "c/y") for site in ("lab", "edge", "else")]


def shown(views: tuple[View, ...]) -> set[tuple[str, str, str]]:
    """Return which streams some views show, and by which filter: that of whole streams shows all of them."""
    found = {(*stream, view.where) for view in views for stream in STREAMS if view.covers(*stream)}
    return found | {(*stream, "status = failed") for *stream, where in found if where == ""}  # type: ignore[misc]


@given(st.lists(VIEWS, max_size=5))
def test_widened_views_show_what_each_of_them_shows_and_nothing_else(said: list[View]) -> None:
    views: tuple[View, ...] = ()
    for view in said:
        views = following.widened(views, view)
    assert shown(views) == shown(tuple(said))
    assert len({(view.sites, view.where) for view in views}) == len(views)


def test_what_is_followed_is_remembered_of_each_hub() -> None:
    store = SqlStore(Sqlite(None))
    views = (View(scopes=("a/*",), sites=("lab",)), View(where="name = 'x y'"))
    following.follow(store, "http://one", views)
    following.follow(store, "http://two", [EVERYTHING])
    assert following.followed(store, "http://one") == views
    assert following.followed(store, "http://two") == (EVERYTHING,)
    assert following.followed(store, "http://three") == ()
    following.follow(store, "http://one", ())
    assert following.followed(store, "http://one") == ()
