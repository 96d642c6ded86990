"""The settings of one store: `.cmf/config.yaml` and the environment. Nothing else in the package reads either.

No secret is ever in them: keys and tokens live in `.cmf/keys`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from cmf import redaction
from cmf.errors import ConflictError, CorruptError, UnsupportedError, UsageError

VERSION = 1
FILE = "config.yaml"
FOLDER = ".cmf"
RANK_MAX = 10**9 - 1
ATTEMPT = re.compile(r"[0-9]{1,9}-[0-9a-f]{8}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A hub that this store pushes to and pulls from."""

    url: str


Policy = Literal["copy", "link", "reference"]
COPY: Policy = "copy"
POLICIES: tuple[Policy, ...] = ("copy", "link", "reference")
"""What to do with the bytes of data, from the safest to the one that keeps none."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to do with the bytes of some files: those that a pattern as in `.gitignore` names, of a size at least."""

    policy: Policy
    path: str = ""
    bytes_min: int = 0


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a person set for one store. Sizes in bytes. ``copies``: how many places should hold an artifact's bytes."""

    v: int = VERSION
    site: str = ""
    remotes: dict[str, Remote] = {}
    untracked_bytes_max: int = 1 << 20
    system: bool = True
    data: list[Rule] = []
    copies: int = 1
    see_params: bool = True

    def __post_init__(self) -> None:
        if self.site and not NAME.fullmatch(self.site):
            raise ValueError(f"site '{self.site}' is not a name of letters, digits, '.', '_' and '-'")
        if self.copies < 1:
            raise ValueError(f"copies is {self.copies}; at least 1 is wanted")
        for name in self.remotes:
            if not NAME.fullmatch(name):
                raise ValueError(f"remote '{name}' is not a name of letters, digits, '.', '_' and '-'")


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says, read once by a face and handed down."""

    dir: str = ""
    remote: str = ""
    off: bool = False
    system: bool = True
    execution: str = ""
    attempt: str = ""
    rank: int | None = None
    parent: str = ""
    scope: str = ""
    told: str = ""
    run: str = ""
    launcher: dict[str, str] = {}
    user: str = ""
    state_home: Path = Path()
    endpoint: str = ""
    cloud_secret: str = ""
    color: bool = True
    variables: dict[str, str] = {}
    secrets: tuple[str, ...] = ()

    def cloud_options(self) -> dict[str, str]:
        """Return the settings of a cloud's client that are not its own to find."""
        return {"endpoint": self.endpoint} if self.endpoint else {}


LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_MCA_ess_base_jobid"),
    *("PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    *("SLURM_PROCID", "SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_CLUSTER_NAME", "SLURM_JOB_USER", "SLURM_SUBMIT_HOST"),
    *("SLURM_SUBMIT_DIR", "SLURM_RESTART_COUNT", "SLURM_JOB_START_TIME"),
)
"""The environment variables by which launchers tell a process its place among others. They enter no record."""

_RECORDED = """
    CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES OMP_NUM_THREADS MKL_NUM_THREADS PYTHONHASHSEED
    PL_GLOBAL_SEED LANG LC_ALL TZ VIRTUAL_ENV CONDA_DEFAULT_ENV CONDA_PREFIX LOADEDMODULES WORLD_SIZE RANK LOCAL_RANK
    SLURM_JOB_ID SLURM_JOB_NAME SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_STEP_ID SLURM_PROCID SLURM_NTASKS
    SLURM_JOB_NUM_NODES SLURM_JOB_PARTITION SLURM_CLUSTER_NAME SLURM_RESTART_COUNT
    PBS_JOBID PBS_JOBNAME PBS_ARRAY_INDEX PBS_QUEUE LSB_JOBID LSB_JOBNAME LSB_JOBINDEX LSB_QUEUE
    SGE_ROOT SGE_CLUSTER_NAME SGE_TASK_ID JOB_ID JOB_NAME QUEUE
    KUBERNETES_SERVICE_HOST POD_NAME POD_NAMESPACE POD_UID NODE_NAME JOB_COMPLETION_INDEX HOSTNAME
    APPTAINER_CONTAINER APPTAINER_NAME SINGULARITY_CONTAINER SINGULARITY_NAME container
"""
RECORDED = tuple(_RECORDED.split())
"""The environment variables that a record may draw on: an allow-list, so that no other ever enters one."""


def environment(values: Mapping[str, str] | None = None) -> Environment:
    """Read the environment: the only function that does."""
    env = dict(os.environ) if values is None else values  # each look into the other one encodes a name
    mode = env.get("CMF_MODE", "local")
    if mode not in ("", "local", "off"):
        raise UsageError(f"CMF_MODE is '{mode}'.", hint="It takes 'local' or 'off'.")
    system = env.get("CMF_SYSTEM", "on")
    if system not in ("", "on", "off"):
        raise UsageError(f"CMF_SYSTEM is '{system}'.", hint="It takes 'on' or 'off'.")
    rank = env.get("CMF_RANK", "")
    if rank and not re.fullmatch("[0-9]{1,9}", rank):
        raise UsageError(f"CMF_RANK is '{rank}'.", hint="It takes a whole number from 0.")
    attempt = env.get("CMF_ATTEMPT", "")
    if attempt and not ATTEMPT.fullmatch(attempt):
        raise UsageError(f"CMF_ATTEMPT is '{attempt}'.", hint="It is a number and 8 hex digits, as in 1-0badcafe.")
    home = Path(env.get("HOME") or "/")
    return Environment(
        dir=env.get("CMF_DIR", ""),
        remote=env.get("CMF_REMOTE", ""),
        off=mode == "off",
        system=system != "off",
        execution=env.get("CMF_EXECUTION", ""),
        attempt=attempt,
        rank=int(rank) if rank else None,
        parent=env.get("CMF_PARENT", ""),
        scope=env.get("CMF_SCOPE", ""),
        told=env.get("CMF_TOLD", ""),
        run=env.get("CMF_RUN", ""),
        launcher={name: env[name] for name in LAUNCHERS if name in env},
        user=env.get("USER") or env.get("LOGNAME") or "",
        state_home=Path(env.get("XDG_STATE_HOME") or home / ".local" / "state") / "cmf",
        endpoint=env.get("AWS_ENDPOINT_URL", ""),
        cloud_secret=env.get("AWS_SECRET_ACCESS_KEY", ""),
        color=not env.get("NO_COLOR") and env.get("TERM") != "dumb",
        variables={name: env[name] for name in RECORDED if name in env},
        secrets=redaction.known_secrets(env),
    )


def announce(run: str) -> None:
    """Let the processes that this one starts find the run that is open here, as `CMF_RUN` says; "" for none."""
    if run:
        os.environ["CMF_RUN"] = run
    else:
        os.environ.pop("CMF_RUN", None)


def find(start: Path, *, override: str = "") -> Path | None:
    """Return the `.cmf` folder that holds for a path: ``override`` (`CMF_DIR`), else the nearest one above; or None."""
    if override:
        folder = Path(override)
        return folder if folder.is_dir() else None
    for parent in (start, *start.parents):
        if (parent / FOLDER).is_dir():
            return parent / FOLDER
    return None


def place(start: Path, *, override: str = "") -> Path:
    """Return where `.cmf` is or belongs: found, else at the top of the git work tree, else here."""
    found = find(start, override=override)
    if found is not None:
        return found
    if override:
        return Path(override)
    for parent in (start, *start.parents):
        if (parent / ".git").exists():
            return parent / FOLDER
    return start / FOLDER


def read(folder: Path) -> Config:
    """Return the settings in a `.cmf` folder; the defaults if it has no file."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptError(f"{path} cannot be read: {error}.", kind="config") from error
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value: Any = YAML(typ="safe", pure=True).load(text) or {}
    except YAMLError as error:
        raise CorruptError(
            f"{path} is not valid YAML.", hint=str(error).replace("\n", " ")[:300], kind="config"
        ) from error
    if isinstance(value, dict) and isinstance(value.get("v"), int) and value["v"] > VERSION:
        raise UnsupportedError(
            f"{path} has format version {value['v']}; this version reads {VERSION}.",
            hint="Upgrade cmf.",
            kind="newer-format",
        )
    try:
        return msgspec.convert(value, Config)
    except msgspec.ValidationError as error:
        raise CorruptError(f"{path} holds a wrong setting: {error}.", hint="Mend it by hand.", kind="config") from error


def write(folder: Path, config: Config) -> None:
    """Write the settings atomically."""
    import io

    from ruamel.yaml import YAML

    buffer = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(msgspec.to_builtins(config) | {"v": VERSION}, buffer)
    path = folder / FILE
    temporary = path.with_name(f".{FILE}.{os.getpid()}")
    try:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConflictError(f"{path} cannot be written: {error.strerror}.", kind="disk") from error


def slugged(text: str) -> str:
    """Make a site's or remote's name out of any text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:64] or "site"
