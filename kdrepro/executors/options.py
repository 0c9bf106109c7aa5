"""What an executor is told: by the command line, a YAML file, and environment variables that notebooks inherit."""

import os
from collections.abc import Mapping
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError

from kdrepro import paths
from kdrepro.errors import InputError, nearest
from kdrepro.files import not_yaml
from kdrepro.settings import Settings

Name = Literal["local", "processes", "ray", "slurm", "submitit-local"]
NAMES = get_args(Name)
NAME, FILE, ADDRESS = "KDREPRO_EXECUTOR", "KDREPRO_EXECUTOR_OPTIONS", "KDREPRO_RAY_ADDRESS"


class Options(Settings):
    """How tasks are carried out elsewhere.

    executor: see `NAMES`. threads: of each worker, 1 unless given, so that numbers are those of a run on one thread.
    gpus: of each worker, also a part of one. device: that workers train on, None for the run's own. precision: of what
    a recipe leaves to "auto"; "auto" for what the run's own device gains from. workers: tasks at once, None for all
    that the cluster has room for (Ray), one a core of this machine, or 100 (Slurm). retries: of a task whose worker has
    died. address: of a Ray cluster, None to start one here. folder: where submitit keeps its jobs, which must be shared
    with them; in the run's folder unless given. submitit: handed on to it (`timeout_min`, `slurm_partition`, ...).
    """

    executor: Name = "local"
    threads: int = Field(1, ge=1)
    gpus: float = Field(0, ge=0)
    device: str | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int | None = Field(None, ge=1)
    retries: int = Field(3, ge=0)
    address: str | None = None
    folder: str | None = None
    submitit: dict[str, Any] = {}


def read(name: str | None = None, file: str | None = None, address: str | None = None) -> Options:
    """The options that these make: an executor's name, a YAML file, a Ray cluster's address.

    Raises InputError for an unknown executor, key or value, and for a file that is none.
    """
    if name is not None and name not in NAMES:
        raise InputError(f"There is no executor {name!r}{nearest(name, NAMES)}: choose {', '.join(NAMES)}.")
    given: dict[str, Any] = _loaded(file) if file else {}
    given |= {key: value for key, value in {"executor": name, "address": address}.items() if value}
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        near = nearest(where, Options.model_fields) if first["type"] == "extra_forbidden" else ""
        raise InputError(f"Executor options {file}: {where}{near}: {first['msg']}.") from None


def _loaded(file: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(paths.expanded(file).read_text(encoding="utf-8"))
    except (OSError, *not_yaml()) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"Executor options {file} cannot be read ({reason}): name a YAML file of them.") from None
    if not isinstance(content, dict):
        raise InputError(f"Executor options {file} must hold keys and values, such as `threads: 1`.")
    return content


def from_environment(environment: Mapping[str, str] = os.environ) -> Options:
    """The options that notebooks inherit. Raises InputError."""
    return read(environment.get(NAME) or None, environment.get(FILE) or None, environment.get(ADDRESS) or None)


def as_environment(name: str | None, file: str | None, address: str | None) -> dict[str, str]:
    """What `from_environment` reads back, paths whole."""
    file = file and str(paths.expanded(file).resolve())
    return {key: value for key, value in {NAME: name, FILE: file, ADDRESS: address}.items() if value}
