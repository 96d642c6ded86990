"""What a run used and made: files, folders, parts of folders, bytes and media, each recorded as an event.

Knows how each becomes an artifact. Refuses to know how a run starts, counts or ends.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from cmf import config, labelling, media, slicing
from cmf.errors import CmfError, NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.model import encoding
from cmf.model import records as model
from cmf.objects import manifest
from cmf.points import whole as whole_number
from cmf.recorder import Recorder
from cmf.worktree import dvc, git, uri
from cmf.worktree import pointer as pointers
from cmf.worktree.files import Kept

if TYPE_CHECKING:
    from cmf.elsewhere import Elsewhere
    from cmf.tracked import Tracked

NAME_CHARS_MAX = 200
Direction = Literal["input", "output"]


class Uses:
    """The events of one run of this process."""

    def __init__(self, recorder: Recorder, scope: str, execution: str) -> None:
        self._recorder = recorder
        self._scope = scope
        self._execution = execution
        self._tracked: Tracked | None = None
        self._elsewhere: Elsewhere | None = None
        self._repositories: dict[Path, Path | None] = {}
        self._named: list[tuple[str, str]] = []
        self._media_step = 0
        self.declared: dict[str, set[str]] = {}

    def path(
        self,
        direction: Direction,
        path: str | os.PathLike[str],
        *,
        type: str,
        role: str,
        name: str,
        attributes: Mapping[str, Any],
        policy: str = "",
        labels: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Record a file or folder; errors as `cmf.recording.Run.input`."""
        place = Path(path)
        _check_texts(place, type, role, name)
        if labels is not None and not isinstance(labels, str | os.PathLike):
            raise UsageError(f"labels takes the path of a file, not {encoding.said(labels)[:NAME_CHARS_MAX]}.")
        chosen = next((known for known in config.POLICIES if known == policy), None)
        if policy and chosen is None:
            raise UsageError(f"'{policy}' is no policy.", hint=f"It is one of {', '.join(config.POLICIES)}.")
        began = time.time_ns()
        try:
            kept = self._recorder.files.keep(place, policy=chosen)
            if labels is not None:
                attributes = {**attributes, **self._label_file(direction, Path(labels), kept.digest)}
            self._record(direction, place, kept, type=type, role=role, name=name, attributes=attributes, began_ns=began)
            self._named.append((kept.digest, name))
        except (NotFoundError, UsageError):
            raise
        except (OSError, CmfError) as error:
            self._recorder.drop(f"{direction} {place}: {error}")
        return place

    def kept(self, direction: Direction, place: Path, kept: Kept, *, type: str, began_ns: int) -> None:
        """Record a file or folder that is kept already. Never raises."""
        try:
            self._record(direction, place, kept, type=type, began_ns=began_ns)
        except (OSError, CmfError) as error:
            self._recorder.drop(f"{direction} {place}: {error}")

    def address(
        self,
        direction: Direction,
        address: str,
        *,
        type: str,
        role: str,
        name: str,
        attributes: Mapping[str, Any],
        policy: str = "",
        labels: str | os.PathLike[str] | None = None,
        hash: bool = False,
    ) -> str:
        """Record what lies at a URL, and return that; errors as `cmf.recording.Run.input`."""
        from cmf.elsewhere import Elsewhere

        shown = uri.bare(address)
        _check_texts(shown, type, role, name)
        if policy not in ("", "reference"):
            raise UsageError(f"{shown} stays where it is.", hint="For a copy, fetch it and record the file.")
        recorder = self._recorder
        endpoint = recorder.environment.endpoint
        self._elsewhere = self._elsewhere or Elsewhere({"endpoint": endpoint} if endpoint else {})
        try:
            found = self._elsewhere.version(address, read=hash)
            records: list[model.Record] = [model.Artifact(digest=found.digest)]
            if found.alias and (named := recorder.keep(found.alias)) != found.digest:
                nodes = f"artifact:{found.digest}", f"artifact:{named}"
                records += [model.Artifact(digest=named), model.Link(source=nodes[0], rel="same_as", to=nodes[1])]
            if labels is not None:
                attributes = {**attributes, **self._label_file(direction, Path(labels), found.digest)}
            event = model.Event(
                execution=self._execution,
                direction=direction,
                artifact=found.digest,
                path=shown,
                type=type,
                role=role,
                name=name,
                size=found.size,
                attributes=encoding.to_value({**attributes, **found.attributes}),
                t=recorder.now(),
            )
            recorder.write(self._scope, *records, event)
            self._named.append((found.digest, name))
        except UsageError:
            raise
        except (OSError, CmfError) as error:
            recorder.drop(f"{direction} {shown}: {error}")
        except Exception as error:  # noqa: BLE001  # of a network's libraries; its text may hold the address's secrets
            recorder.drop(f"{direction} {shown}: {error.__class__.__name__}")
        return address

    def _label_file(self, direction: Direction, place: Path, dataset: str) -> dict[str, Any]:
        """Record the file that holds a data set's labels; return what the data set's own event says of it."""
        try:
            kept = self._recorder.files.keep(place)
            attributes = {labelling.LABELS_OF: dataset}
            self._record(direction, place, kept, type=labelling.TYPE, role=labelling.ROLE, attributes=attributes)
        except (NotFoundError, UsageError):
            raise
        except (OSError, CmfError) as error:  # the data set is recorded nonetheless
            self._recorder.drop(f"labels {place}: {error}")
            return {}
        return {labelling.LABELLED_BY: kept.digest, labelling.LABELS: kept.path}

    def slice(
        self,
        folder: str | os.PathLike[str],
        paths: Iterable[str | os.PathLike[str]],
        *,
        type: str,
        role: str,
        name: str,
        attributes: Mapping[str, Any],
    ) -> list[Path]:
        """Record some files of a folder as an artifact that is part of it; errors as `cmf.recording.Run.slice`."""
        place, wanted, recorder = Path(folder), paths if isinstance(paths, str) else list(paths), self._recorder
        _check_texts(place, type, role, name)
        try:
            whole = recorder.files.keep(place)
            if not whole.digest.startswith(digests.TREE):
                raise UsageError(f"{place} is no folder.", hint="Record a single file with input.")
            with recorder.objects.open(digests.object_of(whole.digest)) as file:
                data = slicing.subset(place, manifest.decode(file.read()), wanted)
            recorder.keep(data)
            entries = manifest.decode(data)
            part = msgspec.structs.replace(
                whole, digest=manifest.tree_digest(data), size=sum(each.size for each in entries), policy=config.COPY
            )
            more = {**attributes, slicing.PART_OF: whole.digest, slicing.FOLDER: whole.path}
            self._record("input", place, whole)
            # Without a path: what lies there is the folder, for `cmf show PATH` and for whoever looks if it changed.
            self._record("input", None, part, type=type, role=role, name=name, attributes=more)
            self._named.append((part.digest, name))
            if part.digest != whole.digest:
                nodes = f"artifact:{part.digest}", f"artifact:{whole.digest}"
                recorder.write(self._scope, model.Link(source=nodes[0], rel=slicing.PART_OF, to=nodes[1]))
        except (NotFoundError, UsageError):
            raise
        except (OSError, CmfError) as error:
            recorder.drop(f"slice of {place}: {error}")
            return [place / each for each in slicing.choose(place, slicing.on_disk(place), wanted)]
        return [place / os.fsdecode(manifest.raw_path(each.path)) for each in entries]

    def data(self, data: bytes, *, type: str, role: str, name: str, attributes: Mapping[str, Any]) -> None:
        """Record bytes that are in no file as an output. Never raises."""
        try:
            kept = self._kept(data)
            self._record("output", None, kept, type=type, role=role, name=name, attributes=attributes)
        except Exception as error:  # noqa: BLE001  # the disk, or attributes that no record can hold
            self._recorder.drop(f"output {encoding.said(name)}: {encoding.said(error)}")
            return
        self._named.append((kept.digest, name))

    def media(self, values: Mapping[str, Any], *, step: int | None, time: float | None, rank: int) -> int:
        """Record those values of a row that are no numbers as outputs, and return the row's step.

        What can't be recorded is counted. Raises `ValueError` for a step that is none.
        """
        step = self._media_step if step is None else whole_number(step)
        if not -encoding.INTEGER_MAX <= step <= encoding.INTEGER_MAX:
            raise ValueError(f"step {step} is beyond 2**53.")
        self._media_step = step + 1
        t = None if time is None else int(time * 1e6)
        for name, value in values.items():
            if value is None or not media.is_media(value):
                continue
            try:
                place = Path(value) if isinstance(value, os.PathLike) else None
                found = media.Media("file", "", b"") if place else media.encoded(value)
                kept = self._recorder.files.keep(place) if place else self._kept(found.data)
                said = {"step": step, "rank": rank, "format": found.format}
                self._record(
                    "output", place, kept, type=found.type, role=media.ROLE, name=str(name), attributes=said, t=t
                )
            except Exception as error:  # noqa: BLE001  # a value's own library may raise anything
                self._recorder.drop(f"{str(name)[:NAME_CHARS_MAX]} at step {step}: {encoding.said(error)}")
        return step

    def newest(self, name: str) -> tuple[str, str] | None:
        """Return digest and name of what was used or made last under a name (any, if empty); media do not count."""
        return next(((digest, known) for digest, known in self._named[::-1] if known and name in ("", known)), None)

    def _kept(self, data: bytes) -> Kept:
        return Kept(digest=self._recorder.keep(data), size=len(data), path="", files=1)

    def _record(
        self,
        direction: Direction,
        place: Path | None,
        kept: Kept,
        *,
        type: str = "",
        role: str = "",
        name: str = "",
        attributes: Mapping[str, Any] | None = None,
        t: int | None = None,
        began_ns: int = 0,
    ) -> None:
        """Record that the run used or made what is kept already; ``place`` is None for what lies at no path.

        ``began_ns`` is a time before its bytes were read: then DVC's hash of them is looked for, too.
        """
        recorder = self._recorder
        more = {"policy": kept.policy} if kept.policy != config.COPY else {}
        beside = git.pointer(place) if place else None
        if beside and beside[0].suffix == pointers.SUFFIX and not pointers.names(str(beside[0]), kept.digest):
            beside = None  # the data was changed since: that commit has another version of it
        same, links = self._same_as(place, kept, began_ns) if place and began_ns else ({}, [])
        event = model.Event(
            execution=self._execution,
            direction=direction,
            artifact=kept.digest,
            path=recorder.files.record_path(place) if place else "",
            type=type,
            role=role,
            name=name,
            size=kept.size,
            attributes=encoding.to_value({**(attributes or {}), **more, **same}),
            t=recorder.now() if t is None else t,
            pointer=_pointer(recorder.files.record_path(beside[0]), beside[1]) if beside else None,
        )
        recorder.write(self._scope, model.Artifact(digest=kept.digest), event, *links)
        if place:
            real = os.path.realpath(place)
            self.declared.setdefault(direction, set()).add(real)
            recorder.tell(direction, real)

    def _same_as(self, place: Path, kept: Kept, began_ns: int) -> tuple[dict[str, str], list[model.Record]]:
        """Return what an event and other records say of DVC's hash of what was kept; nothing if none is proven."""
        absolute = place.absolute()
        if absolute.parent not in self._repositories:
            with contextlib.suppress(OSError):
                self._repositories[absolute.parent] = dvc.root(absolute.parent)
        top = self._repositories.setdefault(absolute.parent, None)
        if top is None:
            return {}, []
        from cmf.bridges.dvc import runs
        from cmf.tracked import Tracked

        self._tracked = self._tracked or Tracked(self._recorder.objects)
        hash_ = self._tracked.hash_of(os.path.abspath(place), kept, top, began_ns)
        if hash_ is None:
            return {}, []
        self._recorder.keep(runs.alias(hash_))
        return {runs.ATTRIBUTE: str(hash_)}, runs.same_as(kept.digest, hash_)


def _pointer(path: str | dict[str, str], commit: str) -> model.Pointer | None:
    return model.Pointer(path=path, commit=commit) if isinstance(path, str) else None


def _check_texts(place: Path | str, *texts: object) -> None:
    """Refuse with `UsageError` a type, role or name that a record cannot hold."""
    if not all(map(is_short_text, texts)):
        raise UsageError(f"A type, role or name of {place} is not a short text: {texts}.")


def is_short_text(value: object) -> bool:
    """Tell whether something is a text that a record can hold as a name."""
    return isinstance(value, str) and len(value) <= NAME_CHARS_MAX
