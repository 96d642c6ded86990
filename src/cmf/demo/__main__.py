"""Tell the story: two sites, one hub, one truth. Every ✓ is checked; the first that does not hold ends the demo."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cmf.demo.places import GREEN, RED, SCRIPTS, BrokenClaimError, Place, carry, claim, held, say, styled
from cmf.objects.local import LocalObjects

SETTINGS = ("0.1 60", "1.0 200")
RAW_AT_EDGE = "penguins-raw.csv"
RAW_AT_LAB = "antarctic-survey.csv"


def tell(root: Path) -> str:
    """Run the pipeline in this folder and check every claim; return the counts in a sentence."""
    say(
        "Two sites and a hub",
        "A survey of penguins is measured at the edge; models of it are trained in a lab without a network. Each team "
        "has a git repository of its own. Nobody has set up a server, an account or a store.",
    )
    edge, lab, datacenter = Place(root, "edge"), Place(root, "lab"), Place(root, "datacenter")
    edge.take_scripts("edge")
    lab.take_scripts("lab")
    shutil.copy(SCRIPTS / "data" / RAW_AT_EDGE, edge.folder / RAW_AT_EDGE)
    edge.run("cmf init --site edge")
    lab.run("cmf init --site lab")
    with datacenter.hub() as url:
        _record(edge, lab, url)
        _merge(edge, lab, url)
        _ask(edge)
        pulled = _pull(lab, Place(root, "office"), url)
        recorded = edge.json("cmf log -n 100 --remote origin")["executions"]
    sites = {view["site"] for view in recorded}
    return (
        f"{len(recorded)} executions at {len(sites)} sites, merged at one hub; {pulled} pulled and verified at a third."
    )


def _record(edge: Place, lab: Place, url: str) -> None:
    say("1. The edge records, and pushes", "The scripts call cmf.run; 'cat edge/ingest.py' shows how little that is.")
    edge.run(f"python ingest.py {RAW_AT_EDGE}")
    edge.run("python choose.py pool.csv batch-1.csv")
    edge.run("cmf log")
    edge.run(f"cmf remote add origin {url}")
    edge.run("cmf push")

    say(
        "2. The lab works offline",
        "Files come on a stick. The survey gets another name on the way, as it happens. A model is trained with two "
        "sets of parameters, and each is judged by penguins that it never saw.",
    )
    carry(edge, lab, "batch-1.csv", "pool.csv", "holdout.csv")
    shutil.copy(edge.folder / RAW_AT_EDGE, lab.folder / RAW_AT_LAB)
    _learn(lab, 1, "batch-1.csv")

    say(
        "3. Backwards: what was hard goes back to the edge",
        "The penguins that the model was least sure of are selected for a second batch, as in active learning.",
    )
    carry(lab, edge, "hard-1-2.csv")
    edge.run("python choose.py pool.csv batch-2.csv hard-1-2.csv")
    carry(edge, lab, "batch-2.csv")
    _learn(lab, 2, "batch-1.csv batch-2.csv")
    lab.run("cmf log 'stage = evaluate'")
    judged = [view["metrics"]["accuracy"] for view in lab.json("cmf log 'stage = evaluate'")["executions"]]
    claim(max(judged[:2]) > max(judged[2:]), f"the second round is better: {max(judged[2:])} → {max(judged[:2])}")
    seen = edge.json("cmf log --remote origin")["executions"]
    claim({view["site"] for view in seen} == {"edge"}, "the hub has not heard of the lab: it was offline all the time")


def _learn(lab: Place, turn: int, batches: str) -> None:
    lab.run(f"python prepare.py {RAW_AT_LAB} train-{turn}.json {batches}")
    for number, setting in enumerate(SETTINGS, 1):
        model = f"model-{turn}-{number}.json"
        lab.run(f"python train.py train-{turn}.json {model} {setting}")
        lab.run(f"python evaluate.py {model} scaling.json holdout.csv pool.csv hard-{turn}-{number}.csv")


def _merge(edge: Place, lab: Place, url: str) -> None:
    say("4. The lab comes online, and both push", "What two sites recorded without knowing of each other is merged.")
    lab.run(f"cmf remote add origin {url}")
    lab.run("cmf push")
    edge.run("cmf push")
    for site in (edge, lab):
        moved = site.json("cmf push")
        claim(not moved["segments"] and not moved["objects"], f"{site.name} pushes again: nothing moves")
    merged = edge.json("cmf log -n 100 --remote origin")["executions"]
    own = [len(site.json("cmf log -n 100")["executions"]) for site in (edge, lab)]
    claim(len(merged) == sum(own), f"the hub holds the {own[0]} executions of the edge and the {own[1]} of the lab")
    raw = {
        use["artifact"]: use["path"]
        for view in merged
        for use in view["inputs"]
        if use["path"] in (RAW_AT_EDGE, RAW_AT_LAB)
    }
    paths = {use["path"] for view in merged for use in view["inputs"] if use["artifact"] in raw}
    claim(
        len(raw) == 1 and paths == {RAW_AT_EDGE, RAW_AT_LAB},
        f"'{RAW_AT_EDGE}' at the edge and '{RAW_AT_LAB}' in the lab are one artifact, since their bytes are the same",
    )


def _ask(edge: Place) -> None:
    say(
        "5. One view of both sites, asked of the hub",
        "The edge asks where the lab's best model came from: selections at the edge, judgements of the lab, back and "
        "forth. Nobody declared these steps; the hashes of the files join them.",
    )
    edge.run("cmf lineage classifier@best --remote origin")
    found = edge.json("cmf lineage classifier@best --remote origin")["executions"].values()
    stages = {(view["stage"], view["site"]) for view in found}
    wanted = {("ingest", "edge"), ("select", "edge"), ("prepare", "lab"), ("train", "lab"), ("evaluate", "lab")}
    claim(wanted <= stages, "its lineage crosses both sites, and passes through an earlier model's evaluation")

    print("\n  Beside each evaluation, the metrics of the stages before it:")
    evaluations = edge.json("cmf log 'stage = evaluate' --remote origin")["executions"]
    for view in reversed(evaluations):
        before = edge.json(f"cmf lineage {view['id']} --depth 2 --remote origin")["executions"].values()
        print(f"    {_line(view)}")
        for earlier in sorted(before, key=_started, reverse=True):
            if earlier["id"] != view["id"] and earlier["metrics"]:
                print(f"        after {_line(earlier)}")
    claim(len(evaluations) == 2 * len(SETTINGS), f"the hub knows the accuracy of all {len(evaluations)} models")


def _line(view: dict[str, Any]) -> str:
    values = {**view["params"], **{name: round(value, 4) for name, value in view["metrics"].items()}}
    return f"{view['stage']:<9} {view['site']:<5} {' '.join(f'{name} {value}' for name, value in values.items())}"


def _started(view: dict[str, Any]) -> int:
    return int(view["started"])


def _pull(lab: Place, office: Place, url: str) -> str:
    say("6. A third, empty site pulls the best model, and all that it came from")
    office.run("cmf init --site office")
    office.run(f"cmf remote add origin {url}")
    office.run("cmf pull --ancestors classifier@best --data")
    office.run("cmf verify")
    office.run("cmf lineage classifier@best")
    lineage = office.json("cmf lineage classifier@best")
    objects = LocalObjects(office.folder / ".cmf" / "objects")
    here = {digest for digest, _ in objects.list()}
    for digest in here:
        objects.check(digest)
    best = lineage["target"]["node"].removeprefix("artifact:")
    models = {f"sha256:{_sha256(path)}": path.name for path in sorted(lab.folder.glob("model-*.json"))}
    claim(best in here and best in models, f"the best model is here, byte for byte the lab's {models.get(best)}")
    claim(set(lineage["artifacts"]) <= here, f"so are all {len(lineage['artifacts'])} files that it came from")
    needed = set(lineage["artifacts"]) | {best}
    strangers = [name for digest, name in models.items() if digest not in needed and digest in here]
    left_out = [name for digest, name in models.items() if digest not in needed]
    claim(left_out and not strangers, f"the bytes of models that it did not come from are not: {', '.join(left_out)}")
    checked = office.json("cmf verify")
    counts = f"{checked['segments']} segments and {checked['objects']} objects"
    claim(not checked["problems"], f"{counts} verified")
    return counts


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    """Tell the story in a folder of its own; ``--keep [FOLDER]`` leaves it there."""
    keep = arguments[:1] == ["--keep"]
    if arguments and (not keep or len(arguments) > 2 or arguments[-1] in ("-h", "--help")):
        print("Usage: cmf demo [--keep [FOLDER]]", file=sys.stderr)
        return 0 if arguments[-1] in ("-h", "--help") else 2
    root = Path(arguments[1]).absolute() if len(arguments) == 2 else Path(tempfile.mkdtemp(prefix="cmf-demo-"))
    if root.exists() and any(root.iterdir()):
        print(f"Error: {root} is not empty.\nHint: Name a new folder: cmf demo --keep FOLDER", file=sys.stderr)
        return 4
    root.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    try:
        counts = tell(root)
        said = f"Every claim held: {len(held)} of them, in {time.monotonic() - begun:.0f} seconds."
        print(f"\n{styled(said, GREEN)}\n{counts}")
        if keep:
            print(f"\nIt is all in {root}. Go there and look around:\n\n  cd {root}/office")
            print("  cmf log\n  cmf show classifier@best\n  cmf lineage classifier@best")
        else:
            print("\nNext: 'cmf demo --keep FOLDER' keeps it all to look at; 'cmf run -- CMD' records your own.")
        return 0
    except (BrokenClaimError, OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        print(f"\n{styled('The demo failed', RED)}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
