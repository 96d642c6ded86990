"""What `.dvc`, `dvc.lock`, `dvc.yaml` and `.dir` objects say: read from their bytes; the first and last written, too.

Known are pointer files of every version, lock files of schema 1.0 and 2.0, and the hashes ``md5`` (DVC 3) and
``md5-dos2unix`` (before: text was hashed with unix line ends). Paths are ``/``-separated and relative to the top of
the git repository; one outside of it starts with ``../`` or ``/``, one elsewhere is a URI.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from cmf.errors import CorruptError, UsageError
from cmf.model import encoding
from cmf.model import records as model
from cmf.objects import manifest
from cmf.worktree import uri

FILE_BYTES_MAX = 32 << 20
FOLDER_BYTES_MAX = manifest.MANIFEST_BYTES_MAX
VALUES_MAX = 1_000_000
"""More values than this in one file are refused: a few aliases of YAML can name each other into millions."""

MD5 = "md5"
DOS2UNIX = "md5-dos2unix"
LOCK = "dvc.lock"
PIPELINE = "dvc.yaml"
PARAMS = "params.yaml"
SUFFIX = ".dvc"
DIR = ".dir"

_MD5 = re.compile(r"[0-9a-f]{32}(?:\.dir)?")
_SIZE = re.compile(r"[0-9]{1,16}")
_LINE = re.compile(r"(?P<indent> *)(?P<dash>- )?(?P<key>[a-z0-9_]+): (?P<value>.+)")


class Hash(NamedTuple):
    """How DVC names bytes: ``md5`` or ``md5-dos2unix``, and 32 hex digits, with ``.dir`` behind them for a folder.

    What it only watches elsewhere is ``etag`` (of an address) or ``git`` (of another repository), and any text.
    """

    algorithm: str
    value: str

    @property
    def is_folder(self) -> bool:
        """Tell whether it is the hash of a folder's list of files."""
        return self.value.endswith(DIR)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"


class Item(NamedTuple):
    """A file or folder that a stage uses or makes. ``hash`` is None where DVC keeps none, ``size`` in bytes."""

    path: str
    hash: Hash | None
    size: int | None = None


class Stage(NamedTuple):
    """One run of a stage as a lock file tells it; or what a pointer file tracks, then ``command`` may be empty."""

    name: str
    command: tuple[str, ...]
    deps: tuple[Item, ...]
    outs: tuple[Item, ...]
    params: dict[str, Any]


class Declared(NamedTuple):
    """What `dvc.yaml` says of a stage: the folder it runs in, and the paths that hold its metrics."""

    folder: str
    metrics: tuple[str, ...]
    models: tuple[str, ...]


def is_lock(path: str) -> bool:
    """Tell whether a path of a repository is that of a lock file."""
    return posixpath.basename(path) == LOCK


def read_lock(data: bytes, path: str, declared: Mapping[str, Declared]) -> dict[str, Stage]:
    """Return the stages of a lock file, by name. ``declared`` is what the `dvc.yaml` beside it says."""
    value = _mapping(read_yaml(data, path), path)
    stages = value.get("stages", {}) if "schema" in value else value
    folder = posixpath.dirname(path)
    found = {}
    for name, entry in _mapping(stages, path).items():
        inside = declared[plain(name)].folder if plain(name) in declared else folder
        found[name] = _stage(name, _mapping(entry, path), inside, path)
    return found


def read_pointer(data: bytes, path: str) -> Stage:
    """Return what a pointer file tracks: as a stage, named by the path of the file without its suffix."""
    value = _mapping(read_yaml(data, path), path)
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), _text(value.get("wdir"), ".")))
    return _stage(path.removesuffix(SUFFIX), value, inside, path)


def read_statements(data: bytes) -> list[Item]:
    """Return what a pointer or lock file says of files and folders, read line by line: fast, and for hints only.

    Paths are as they are spelled, relative to a folder that is not known here. What is spelled in another way than
    DVC's is left out. So nothing of it may be believed without a proof.
    """
    found: list[Item] = []
    entry: dict[str, str] = {}
    inside = -1
    for line in [*data.decode("utf-8", "replace").splitlines(), ""]:
        match = _LINE.fullmatch(line)
        starts = match is not None and match["dash"] is not None
        if match is not None and not starts and len(match["indent"]) == inside:
            entry[match["key"]] = match["value"]
            continue
        path, md5, size = (_scalar(entry.get(key, "")) for key in ("path", "md5", "size"))
        if path and _MD5.fullmatch(md5):
            algorithm = MD5 if entry.get("hash") == MD5 else DOS2UNIX
            found.append(Item(path, Hash(algorithm, md5), int(size) if _SIZE.fullmatch(size) else None))
        entry, inside = {}, -1
        if match is not None and starts:
            entry, inside = {match["key"]: match["value"]}, len(match["indent"]) + len(match["dash"])
    return found


def _scalar(spelled: str) -> str:
    """Return a plain or quoted scalar of YAML in one line; "" for what is more than that."""
    if len(spelled) > 1 and spelled[0] == spelled[-1] == "'":
        return spelled[1:-1].replace("''", "'")
    if spelled.startswith('"'):
        try:
            return _text(json.loads(spelled))  # those of YAML that are none of JSON say nothing here
        except ValueError:
            return ""
    return "" if spelled[:1] in "'&*!|>%@`{[" else spelled


def read_pipeline(data: bytes, path: str) -> dict[str, Declared]:
    """Return what a `dvc.yaml` declares of its stages, by their plain names."""
    value = _mapping(read_yaml(data, path), path)
    folder = posixpath.dirname(path)
    common = [each for each in _list(value.get("metrics")) if isinstance(each, str)]
    models = tuple(
        _below(folder, _text(each.get("path")))
        for each in _mapping(value.get("artifacts") or {}, path).values()
        if isinstance(each, dict) and each.get("type") == "model" and _text(each.get("path"))
    )
    found = {}
    for name, entry in _mapping(value.get("stages") or {}, path).items():
        inner = entry.get("do", entry) if isinstance(entry, dict) else {}
        if not isinstance(inner, dict):
            continue
        inside = _below(folder, _text(inner.get("wdir"), "."))
        own: list[str] = []
        for each in _list(inner.get("metrics")):
            own += [each] if isinstance(each, str) else [key for key in each if key] if isinstance(each, dict) else []
        metrics = [*(_below(inside, each) for each in own), *(_below(folder, each) for each in common)]
        found[name] = Declared(inside, tuple(dict.fromkeys(metrics)), models)
    return found


def read_folder(data: bytes, hash_: Hash) -> list[tuple[str, Hash]]:
    """Return the files of the `.dir` object of that hash: path in the folder, and hash of the same algorithm."""
    name = str(hash_)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{name} is not a list of files: {error}.", kind="dvc") from error
    found = []
    for each in value if isinstance(value, list) else [None]:
        path, text = "", ""
        if isinstance(each, dict):
            path, text = _text(each.get("relpath")), _text(each.get("md5"))
        try:
            spelled = manifest.path_of(path.encode())
        except UnicodeEncodeError:  # JSON can spell half a character; DVC never does
            spelled = ""
        if not _MD5.fullmatch(text) or text.endswith(DIR) or not manifest.is_path(spelled):
            raise CorruptError(f"{name} holds what is no file of a folder: {ascii(each)[:120]}.", kind="dvc")
        assert isinstance(spelled, str)
        found.append((spelled, Hash(hash_.algorithm, text)))
    return found


def write_folder(found: Iterable[tuple[str, str]]) -> bytes:
    """Return the bytes of the `.dir` object of a folder of these files: path in the folder, and MD5 in hex.

    They are those that DVC writes, since the folder's hash is theirs.
    """
    return json.dumps([{"md5": md5, "relpath": path} for path, md5 in sorted(found)]).encode()


def write_pointer(name: str, md5: str, *, size: int, files: int | None, executable: bool) -> bytes:
    """Return the bytes of the pointer file of data beside it: its name, its MD5 (with ``.dir`` for a folder), its size.

    ``files`` is how many a folder holds. They are those that ``dvc add`` writes. A name that DVC would read as another
    one is a `UsageError`: of some line ends, YAML makes spaces.
    """
    from ruamel.yaml import YAML

    out: dict[str, Any] = {"md5": md5, "size": size}
    out |= {"nfiles": files} if files is not None else {}
    out |= {"isexec": True} if executable else {}
    out |= {"hash": MD5, "path": name}
    yaml = YAML()
    yaml.default_flow_style = False
    spelled = io.BytesIO()
    yaml.dump({"outs": [out]}, spelled)
    data = spelled.getvalue()
    try:
        is_held = _list(_mapping(read_yaml(data, name), name).get("outs")) == [out]
    except CorruptError:
        is_held = False
    if not is_held:
        raise UsageError(f"{name!r} is a name that no pointer file of DVC can hold.", hint="Rename it.")
    return data


def read_metrics(data: bytes, path: str) -> dict[str, float | int]:
    """Return the numbers in a metrics file (JSON, YAML or TOML), by their dotted names; none if it is no such file."""
    try:
        if path.endswith(".toml"):
            import tomllib

            value = bounded(tomllib.loads(data.decode()), path)
        elif path.endswith(".json"):
            value = bounded(json.loads(data), path)
        else:
            value = read_yaml(data, path)
    except (CorruptError, ValueError, RecursionError):
        return {}
    found: dict[str, float | int] = {}
    _flatten(value, "", found)
    return found


def _flatten(value: Any, name: str, found: dict[str, float | int]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(item, f"{name}.{key}" if name else key, found)
    elif isinstance(value, int | float) and not isinstance(value, bool) and name:
        found[name] = value


def read_yaml(data: bytes, path: str) -> Any:
    """Return the plain values of a YAML file: `CorruptError` if it is none, or holds more than fits."""
    if len(data) > FILE_BYTES_MAX:
        raise CorruptError(f"{path} has {len(data)} bytes, more than {FILE_BYTES_MAX}.", kind="limit")
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(data)
    except (YAMLError, UnicodeError, ValueError, TypeError, RecursionError, AttributeError) as error:
        raise CorruptError(
            f"{path} is not valid YAML.", hint=str(error).replace("\n", " ")[:300], kind="dvc"
        ) from error
    return bounded(value, path)


def bounded(value: Any, path: str) -> Any:
    """Return a value as JSON can hold it; `CorruptError` if its aliases make more of it than a file may hold."""
    room = VALUES_MAX

    def walk(each: Any, depth: int) -> Any:
        nonlocal room
        room -= 1
        if room < 0 or depth > encoding.DEPTH_MAX:
            raise CorruptError(f"{path} holds more values, or deeper ones, than are read.", kind="limit")
        if isinstance(each, dict):
            return {str(key): walk(item, depth + 1) for key, item in each.items()}
        if isinstance(each, list | tuple | set):
            return [walk(item, depth + 1) for item in each]
        if isinstance(each, dt.date | dt.time):
            return each.isoformat()
        return each

    return walk(value, 0)


def plain(name: str) -> str:
    """Return the name of the stage in `dvc.yaml` that a stage in a lock file is an instance of: ``train@a``."""
    return name.partition("@")[0]


def _stage(name: str, entry: Mapping[str, Any], folder: str, path: str) -> Stage:
    command = entry.get("cmd", "")
    words = tuple(str(each) for each in command) if isinstance(command, list) else (_text(command),)
    params: dict[str, Any] = {}
    for file, values in _mapping(entry.get("params") or {}, path).items():
        for key, value in values.items() if isinstance(values, dict) else ():
            params[key if file == PARAMS else f"{file}:{key}"] = value
    deps = []
    for each in _list(entry.get("deps")):
        if isinstance(each, dict) and isinstance(each.get("params"), dict):  # a pointer file of DVC 1 with a command
            file = _text(each.get("path"), PARAMS)
            params |= {key if file == PARAMS else f"{file}:{key}": value for key, value in each["params"].items()}
        elif isinstance(each, dict):
            deps.append(_item(each, folder))
    outs = [_item(each, folder) for each in _list(entry.get("outs")) if isinstance(each, dict)]
    kept = {key[: model.TEXT_CHARS_MAX]: encoding.to_value(value) for key, value in params.items()}
    return Stage(
        name, tuple(word for word in words if word), tuple(filter(None, deps)), tuple(filter(None, outs)), kept
    )


def _item(entry: Mapping[str, Any], folder: str) -> Item | None:
    path = _text(entry.get("path"))
    if not path:
        return None
    size = entry.get("size")
    return Item(
        path=_below(folder, path),
        hash=_hash(entry, path),
        size=size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**53 else None,
    )


def _hash(entry: Mapping[str, Any], path: str) -> Hash | None:
    text = _text(entry.get("md5"))
    if _MD5.fullmatch(text):
        return Hash(MD5 if entry.get("hash") == MD5 else DOS2UNIX, text)
    if etag := _text(entry.get("etag")) or _text(entry.get("checksum")):
        return Hash("etag", f"{etag} {uri.bare(path)}")
    repo = entry.get("repo")
    if isinstance(repo, dict) and _text(repo.get("url")):
        revision = _text(repo.get("rev_lock")) or _text(repo.get("rev"))
        return Hash("git", f"{revision} {uri.bare(repo['url'])} {path}")
    return None


def _below(folder: str, path: str) -> str:
    if uri.is_uri(path):
        return uri.bare(path)
    found = manifest.path_of(posixpath.normpath(posixpath.join(folder, path)).encode("utf-8", "surrogatepass"))
    return found if isinstance(found, str) else ascii(found)


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CorruptError(f"{path} is not what DVC writes there: a mapping was expected.", kind="dvc")
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any, default: str = "") -> str:
    return value if isinstance(value, str) else default
