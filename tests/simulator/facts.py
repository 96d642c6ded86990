"""What simulated programs record: facts crowded on few executions, artifacts and times, so that they often disagree."""

import random
from array import array
from typing import Literal

from cmf.journal import JournalWriter, PointsHeader
from cmf.model import digest as digests
from cmf.model import records as model
from tests.property.store_histories import EXECUTIONS, IDS, SCOPES, SIZES

STATES = ("running", "finished", "failed", "killed", "lost")
KEYS = ("param/loss", "metric/loss", "metric/f1", "tag/x", "title", "new/kind")


OBJECTS = {digests.file_digest(data): data for data in (b"environment %d" % n for n in range(20))}
"""The objects that records name and that must travel with them."""


def draw(chance: random.Random, now: int, name: str) -> tuple[str, model.Record]:
    """Return one (scope, draft), as a site of this name records it."""
    scope, id_ = chance.choice(SCOPES), chance.choice(IDS)
    t = chance.choice((now, now, chance.randint(0, 3)))
    subject = model.execution_node(scope, id_)
    match chance.randrange(10):
        case 0 | 1:
            called = chance.choice(("", "a", "b"))
            return scope, model.Execution(id=id_, name=called, started=t, params={"loss": chance.randint(0, 2)})
        case 2 | 3:
            artifact = chance.choice(tuple(SIZES))
            direction: Literal["input", "output"] = "input" if chance.random() < 0.5 else "output"
            size = chance.choice(SIZES[artifact])
            return scope, model.Event(
                execution=id_, direction=direction, artifact=artifact, path="a", name="m", size=size, t=t
            )
        case 4 | 5:
            status = {"status": chance.choice(STATES), "ended": t}
            attempt = chance.choice(("1-aaaaaaaa", "2-00000000"))
            return scope, model.Property(subject=subject, key=f"status/{attempt}/0", value=status, t=t)
        case 6:
            process = {"environment": {"$object": chance.choice(tuple(OBJECTS))}, "site": {"name": name}}
            return scope, model.Property(subject=subject, key="process/1-aaaaaaaa/0", value=process, t=t)
        case 7:
            return scope, model.Artifact(digest=chance.choice(tuple(SIZES)))
        case 8:
            about = chance.choice(EXECUTIONS)
            return scope, model.Property(subject=about, key="retracted", value=chance.choice((True, None)), t=t)
        case _:
            key, value = chance.choice(KEYS), chance.randint(0, 3)
            return scope, model.Property(subject=chance.choice((subject, "scope")), key=key, value=value, t=t)


def points(chance: random.Random, journal: JournalWriter, now: int, first: int) -> int:
    """Append a few rows of step metrics; return how many."""
    rows = chance.randint(1, 3)
    header = PointsHeader(
        scope="p/a", execution=IDS[0], attempt="1-aaaaaaaa", rank=0, names=("loss",), first=first, rows=rows
    )
    steps, times = array("q", range(first, first + rows)), array("q", [now] * rows)
    for _ in journal.points(header, steps, times, [array("d", [0.5] * rows)]):
        pass
    return rows
