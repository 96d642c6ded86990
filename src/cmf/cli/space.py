"""Where the bytes are, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmf.cli import render

if TYPE_CHECKING:
    from cmf.whereabouts import Whereabouts


def places(found: Whereabouts) -> str:
    """Return in a line which places hold an artifact's bytes, and when that was last seen."""
    said = []
    for place in found.places:
        part = "" if place.objects == found.objects else f" {place.objects} of {found.objects} objects"
        checked = "" if place.checked is None else f" (checked {render.ago(place.checked)})"
        said.append(f"{place.name}{part}{checked}")
    if not found.places:
        said.append("not here, and at no remote that was asked")
    if not found.complete:
        said.append("the folder's files are not known here")
    recorded = [f"{site} ({render.moment(t)})" for site, t in sorted(found.sites.items())]
    return " · ".join([*said, *([f"recorded at {', '.join(recorded)}"] if recorded else [])])
