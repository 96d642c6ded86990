"""Make the golden vectors of the formats: what every release must go on reading, and spelling in the same way.

``python -m tests.golden.make`` writes ``model.json`` if there is none. What is written once never changes.
"""

import tempfile
from array import array
from pathlib import Path
from typing import Any

import msgspec

from cmf import journal, signing
from cmf.model import digest as digests
from cmf.model import encoding, records, segment, series
from cmf.model.process import Process
from cmf.objects import manifest

PATH = Path(__file__).with_name("model.json")
SEED = bytes(range(32))
SECRET = b"the secret of the golden vectors"
NONCE = bytes(range(16))
NOW = 1_750_000_000_000_000
SCOPE = "penguins/train"
SITE = "golden-site"

ID = "01970000-0000-7000-8000-000000000001"
PARENT = "01970000-0000-7000-8000-000000000002"
FILE = digests.file_digest(b"golden\n")
FOLDER = "tree:" + digests.file_digest(manifest.HEADER)
UNKNOWN = b'{"for":"a later version","kind":"greeting","t":17,"words":["hello",{"$$f":1.5}]}'

NAMES = ("accuracy", "loss")
STEPS = (0, 1, 2, 5, 7)
TIMES = (NOW, NOW + 10, NOW + 21, NOW + 21, NOW + 99)
COLUMNS = ((0.5, 0.625, 0.75, float("nan"), -0.0), (2.5, float("inf"), 1e-300, float("-inf"), 0.1))

PROCESS = Process(host="node-7", boot="3c0ffee0", pid=4711, start=123456, uid=1000)
POINTS = journal.PointsHeader(SCOPE, ID, "1-0badcafe", 0, NAMES, 3, len(STEPS))

VALUES: dict[str, Any] = {
    "none": None,
    "booleans": [True, False],
    "integers": [0, -1, 2**53, -(2**53)],
    "large integers": [2**53 + 1, -(2**53) - 1, 10**40],
    "floats": [0.1, -0.0, 1e300, 5e-324, 1.0, 1e16],
    "not finite": [float("nan"), float("inf"), float("-inf")],
    "bytes": b"\x00\xff\xfe",
    "text": 'ä "quoted" \\ \n \x7f \U0001f427',
    "$keys": {"$f": "nan", "$$": 1, "$object": "not one"},
    "\uffff before \U00010000": {"\uffff": 1, "\U00010000": 2, "a": 3, "": 4},
    "nested": [[], {}, [[{"deep": (1, 2)}]]],
}


def drafts() -> dict[str, records.Record]:
    """Return a record of each kind, without salts."""
    node = records.execution_node(SCOPE, ID)
    return {
        "execution": records.Execution(
            id=ID,
            name="run 1",
            command=["python", "train.py", "--lr=0.1"],
            started=NOW,
            params=encoding.to_value(VALUES),
            parent=records.execution_node("penguins/sweep", PARENT),
            author="Ada <ada@example.org>",
        ),
        "execution, bare": records.Execution(id=PARENT, started=0),
        "artifact": records.Artifact(digest=FILE),
        "artifact, folder": records.Artifact(digest=FOLDER),
        "event": records.Event(
            execution=ID,
            direction="output",
            artifact=FILE,
            path="models/best.bin",
            type="model",
            role="best",
            name="model",
            size=7,
            attributes={"framework": "none", "card": {"$object": FILE}},
            t=NOW + 3,
            pointer=records.Pointer(path="models/best.bin.dvc", commit="c0ffee" * 6 + "c0ff"),
        ),
        "event, raw path": records.Event(execution=ID, direction="input", artifact=FOLDER, path={"$b": "/w=="}, t=1),
        "link": records.Link(source=f"artifact:{FILE}", rel="part_of", to=f"artifact:{FOLDER}"),
        "property": records.Property(subject=node, key="metric/f1", value={"$f": "nan"}, t=NOW + 4),
        "property, null": records.Property(subject="scope", key="label/best", t=NOW + 5),
        "series": records.Series(
            execution=ID,
            names=list(NAMES),
            attempt="1-0badcafe",
            rank=0,
            first=3,
            rows=len(STEPS),
            steps=(STEPS[0], STEPS[-1]),
            times=(TIMES[0], TIMES[-1]),
            object=FILE,
            size=7,
            stats=[series.stats(column) for column in COLUMNS],
        ),
    }


def chunk() -> series.Chunk:
    """Return the chunk of step metrics."""
    return series.Chunk(NAMES, array("q", STEPS), array("q", TIMES), tuple(array("d", column) for column in COLUMNS))


def entries() -> list[manifest.Entry]:
    """Return the files of the folder, not in their order."""
    return [
        manifest.Entry("weights/\U0001f427.bin", FILE, 7),
        manifest.Entry("run.sh", digests.EMPTY, 0, executable=True),
        manifest.Entry("café".encode("latin-1"), FILE, 2**53),
    ]


def journal_bytes() -> bytes:
    """Return a journal with a frame of each tag."""
    with tempfile.TemporaryDirectory() as folder:
        writer = journal.JournalWriter(Path(folder, "journals"), PROCESS)
        writer.record(SCOPE, drafts()["property"])
        list(writer.points(POINTS, array("q", STEPS), array("q", TIMES), chunk().columns))
        writer.heartbeat(NOW + 1_000_000)
        writer.dropped(2, "a value that could not be kept")
        writer.close()
        return writer.path.read_bytes()


def _segment(made: segment.Segment) -> dict[str, str]:
    return {
        "header": made.header.decode(),
        "hash": made.hash.hex(),
        "stream": made.stream.hex(),
        "payload": segment.signing_payload(made.header).hex(),
        "signature": made.signature.hex(),
        "wire": segment.to_wire(made).hex(),
    }


def vectors() -> dict[str, Any]:
    """Return all that is kept in the file, made by the code of today."""
    key = signing.Key(SEED)
    named: dict[str, dict[str, str]] = {}
    sealed: list[tuple[bytes, bytes, int | None]] = []
    for name, draft in drafts().items():
        id_, data = records.salted(draft, SECRET)
        named[name] = {"bytes": data.decode(), "id": id_.hex()}
        sealed.append((id_, data, records.time_of(draft)))
    named["of an unknown kind"] = {"bytes": UNKNOWN.decode(), "id": digests.sha256(UNKNOWN).hex()}
    sealed.append((digests.sha256(UNKNOWN), UNKNOWN, None))
    genesis = segment.start(SCOPE, SITE, key, created=NOW, nonce=NONCE)
    following = segment.seal(genesis.hash, genesis.hash, 1, sealed, key, now=NOW + 9)
    folder = manifest.encode(entries())
    return {
        "seed": SEED.hex(),
        "public": key.public.hex(),
        "secret": SECRET.hex(),
        "values": encoding.encode(encoding.to_value(VALUES)).decode(),
        "records": named,
        "segments": {"genesis": _segment(genesis), "following": _segment(following)},
        "chunk": series.encode(chunk()).hex(),
        "manifest": {"bytes": folder.decode(), "digest": manifest.tree_digest(folder)},
        "journal": journal_bytes().hex(),
    }


def main() -> None:
    """Write the file, unless it is there."""
    try:
        with PATH.open("xb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(vectors()), indent=1) + b"\n")
    except FileExistsError:
        print(f"{PATH.name} is there. Golden vectors never change: add new ones to another file.")


if __name__ == "__main__":
    main()
