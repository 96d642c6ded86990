"""Must-show: a program that is full of secrets leaves none of them in its store, and loses nothing else."""

import contextlib
import json
import sqlite3
import sys
from pathlib import Path

import pytest

import cmf
from tests import secrets
from tests.commands import cmf as command
from tests.commands import git, run

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KNOWN = "zebra-42-only-in-the-environment"

PROGRAM = """
import json, sys
import cmf

texts = json.load(open(sys.argv[1]))
params = {"lr": 0.1, "hub_token": texts[0], "nested": {"password": texts[1]}, "texts": texts, "big": ["x" * 99] * 999}
small = {"hub_token": texts[0], "nested": {"password": texts[1]}, **{f"p{n}": text for n, text in enumerate(texts)}}
cmf.run("p/large", params=params).finish()
run = cmf.run("p/small", params=small)
for number, text in enumerate(texts):
    run.set(f"note/{number}", text)
    run.set("tag/api_key", text)
open("out.txt", "w").write("a result\\n")
run.output("out.txt", note=texts[2], text=texts)
run.metrics(f1=texts[3])
run.link(run.node, "nonsense", texts[4])
raise ValueError("\\n".join(texts) + " " + "zebra-42-only-" + "in-the-environment")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init")
    git(folder, "remote", "add", "origin", "https://ada:s3cret@example.org/repo.git")
    (folder / "train.py").write_text(PROGRAM)
    (folder / "settings.txt").write_text("first\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    texts = "\n".join(secrets.TEXTS)
    (folder / "settings.txt").write_text(f"first\n{texts}\nlast line, that is no secret\n")
    (folder / ".env").write_text("PLAIN=only-in-dotenv-file\n")
    (folder / "id_rsa").write_text("only-in-id-rsa-file\n")
    (folder / "untracked.yaml").write_text(f"a: 1\n{texts}\n")
    (folder / "harmless.yaml").write_text("lr: 0.1\n")
    (tmp_path / "texts.json").write_text(json.dumps(list(secrets.TEXTS)))
    return folder


def held(store: Path) -> bytes:
    """Return all that a store holds: each file, each value of its database, each object, with what zstd packed."""
    found = [path.read_bytes() for path in store.rglob("*") if path.is_file() and "keys" not in path.parts]
    for path in store.rglob("*.db"):
        with sqlite3.connect(path) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in database.execute(f"SELECT * FROM {table}"):
                    found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    with cmf.open(store.parent) as repo:
        found += [repo.read(digest) for digest, _ in repo.objects.list()]
    for data in list(found):
        at = data.find(b"\x28\xb5\x2f\xfd")
        while at >= 0:
            with contextlib.suppress(zstd.ZstdError):
                found.append(zstd.ZstdDecompressor().decompress(data[at:]))
            at = data.find(b"\x28\xb5\x2f\xfd", at + 1)
    return b"\n".join(found)


def test_nothing_of_a_corpus_of_secrets_is_in_any_record_or_object(project: Path, tmp_path: Path) -> None:
    words = [word for line, _ in secrets.COMMANDS for word in line]
    program = [sys.executable, "train.py", str(tmp_path / "texts.json"), *words]
    env = {"SERVICE_PASSWORD": KNOWN}
    # Not by `-m`: the program's own traceback is on its standard error.
    start = [sys.executable, "-c", "from cmf.cli import main; main()", "run", "--param", "token=c0rrecthorse", "--"]
    run([*start, *program], project, code=1, env=env)
    before = held(project / ".cmf")
    command(project, "status")
    after = held(project / ".cmf")
    every = [*secrets.TEXTS.values(), *(secret for _, secret in secrets.COMMANDS), KNOWN]
    every += ["only-in-dotenv-file", "only-in-id-rsa-file"]
    for secret in every:
        forms = {secret.encode(), json.dumps(secret)[1:-1].encode()}
        assert not any(form in before or form in after for form in forms), secret
    for kept in (b"last line, that is no secret", b"a result", b"ValueError", b"lr: 0.1", b"p/small"):
        assert kept in after, kept
    with cmf.open(project) as repo:
        (small,) = repo.executions("scope = p/small")
        reasons = {path: reason for path, _, reason in small.code["omitted"]}
    assert small.status == "failed"
    assert small.code["masked"] >= len(secrets.TEXTS) - 1
    assert reasons == {
        ".env": "named as what holds secrets",
        "id_rsa": "named as what holds secrets",
        "untracked.yaml": "holds what looks like a secret",
    }


def test_a_store_that_holds_a_secret_is_noticed_by_this_test(project: Path) -> None:
    run([sys.executable, "-c", "import cmf\nwith cmf.run('p/a') as r: r.set('note', 'plain ' + 'words-999')"], project)
    command(project, "status")
    assert b"plain words-999" in held(project / ".cmf")
