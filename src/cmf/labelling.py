"""Label files: which file holds the labels of a data set, as the events of both say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

TYPE = "labels"
ROLE = "labels"
LABELLED_BY = "labelled_by"
"""The attribute of a data set's event that holds the digest of its label file."""

LABELS = "labels"
"""The attribute of a data set's event that holds the label file's path."""

LABELS_OF = "labels_of"
"""The attribute of a label file's event that holds the digest of the data set."""


def files(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the label files that the attributes of a data set's events name, in order: path by digest."""
    return {
        str(each[LABELLED_BY]): str(each.get(LABELS, "")) for each in events if isinstance(each.get(LABELLED_BY), str)
    }


def datasets(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the digests of the data sets that the attributes of a label file's events name, in order."""
    return list(dict.fromkeys(each[LABELS_OF] for each in events if isinstance(each.get(LABELS_OF), str)))
