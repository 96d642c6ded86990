"""Data at a URL is an input or output of a run, versioned where it lies: at a web server, and in a cloud's bucket."""

import hashlib
import json
from pathlib import Path

import pytest

from cmf.repo import open_repo
from tests import azurite, buckets, web
from tests.commands import cmf, script
from tests.web import Answer

pytestmark = pytest.mark.xdist_group("s3")

BODY = b"id,label\n" * 1000
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


def alias(of: str) -> str:
    """Return the digest of the alias of something, spelled without the code under test."""
    spelled = json.dumps({"cmf": "alias", "of": of, "v": 1}, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(spelled.encode()).hexdigest()


def test_a_run_uses_what_lies_at_a_url_and_no_secret_of_it_is_kept(tmp_path: Path) -> None:
    with web.running({"/a.csv": Answer({"etag": '"v1"'}, BODY)}) as (url, _):
        signed = f"{url}/a.csv?token=hunter2".replace("://", "://me:hunter3@")
        text = f"""
import cmf
with cmf.run("p/prepare") as run:
    print(run.input({signed!r}, type="dataset", note="mine"))
    run.input({url + "/a.csv"!r}, name="hashed", hash=True)
    run.input({url + "/lacks"!r})
    run.output({url + "/a.csv"!r}, name="made")
"""
        done = script(tmp_path, text)
        assert done.out.strip() == signed  # the program gets what it gave
        assert f"could not record something: input {url}/lacks: There is nothing at" in done.err
    with open_repo(tmp_path) as repo:
        (run,) = repo.executions()
        named, hashed = run.inputs
        assert (named.artifact, named.path, named.size) == (alias(f"etag:v1 {url}/a.csv"), f"{url}/a.csv", len(BODY))
        assert named.attributes == {"note": "mine", "etag": "v1", "alias": True}
        assert (hashed.artifact, hashed.attributes) == (SHA, {"etag": "v1", "policy": "reference"})
        assert [use.artifact for use in run.outputs] == [named.artifact]
        assert repo.objects.absent([SHA]) == [SHA]
        assert repo.status().dropped == 1
    assert run.status == "finished"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hunter" not in path.read_bytes(), path
    status = cmf(tmp_path, "status", "--json").json
    assert status["drifted"] == []
    assert "all good" in cmf(tmp_path, "verify").out
    assert "only that they are etag:v1" in cmf(tmp_path, "get", "made", code=3).err


PUT = """
import cmf, obstore, os
from obstore.store import from_url
store = from_url(os.environ["BUCKET"], client_options={"allow_http": True})
with cmf.run("p/make") as run:
    obstore.put(store, "in/a b.csv", b"id,label\\n" * int(os.environ["ROWS"]))
    run.output(os.environ["BUCKET"] + "/in/a b.csv", name="table")
"""
USE = """
import cmf, os
with cmf.run("p/use") as run:
    run.input(os.environ["BUCKET"] + "/in/a b.csv")
    run.input(os.environ["BUCKET"] + "/in/a b.csv", hash=True, role="hashed")
    run.input(os.environ["BUCKET"] + "/lacks")
"""


@pytest.mark.parametrize("cloud", ["s3", "az"])
def test_what_one_run_put_into_a_bucket_another_one_used(
    cloud: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if cloud == "s3":
        bucket, secret = f"s3://{buckets.NAME}", "AWS_SECRET_ACCESS_KEY"
        keys = buckets.environment(request.getfixturevalue("s3"))
    else:
        bucket, secret = f"az://{azurite.NAME}", "AZURE_STORAGE_ACCOUNT_KEY"
        keys = azurite.environment(request.getfixturevalue("azure"))
    keys["BUCKET"] = bucket
    for rows in ("1000", "1001"):
        assert f"{bucket}/lacks" in script(tmp_path, PUT + USE, env={**keys, "ROWS": rows}).err
    refused = script(tmp_path, USE, env={**keys, secret: "bm9uZQ=="})
    assert "refuses us" in refused.err
    with open_repo(tmp_path) as repo:
        refused_run, *found = [view for view in repo.executions() if view.stage == "use"]
        assert (refused_run.status, refused_run.inputs) == ("finished", ())
        for view, count in zip(found, (1001, 1000), strict=True):
            named, hashed = sorted(view.inputs, key=lambda use: use.role)
            assert {named.path, hashed.path} == {f"{bucket}/in/a b.csv"}
            data = b"id,label\n" * count
            assert hashed.artifact == "sha256:" + hashlib.sha256(data).hexdigest()
            assert named.artifact == alias(f"etag:{named.attributes['etag']} {bucket}/in/a b.csv")
            assert named.size == hashed.size == len(data)
            assert [above.stage for above in repo.lineage(view.node).ancestors()] == ["make"]
