"""Bringing a model in: which files a model has, and the job that fetches, checks and registers one."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, Message
from shared.errors import HeliuError, InvalidInput

Kind = Literal["base", "adapter", "encoder", "classifier", "ranker"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
# As a Hugging Face Hub names its repositories, and what stands for a version there.
HUB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$"
REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
MAX_FILES = 500
MAX_PATH = 255
ADAPTER_CONFIG = "adapter_config.json"

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5"})
# Weights, configurations, tokenizers and templates, and the numbered parts of a sentence encoder. Other folders of a
# repository hold the same model for other programs, as do `consolidated` weights.
_FILE = re.compile(
    r"(?!consolidated)[\w.+-]+\.(safetensors|json|model|jinja|txt|tiktoken)"
    r"|\d+_[A-Za-z]+/[\w.+-]+\.(safetensors|json|model|txt)"
    r"|additional_chat_templates/[\w.+-]+\.jinja",
    re.ASCII,
)


class UnsafeFile(HeliuError):
    """A file that may run code when it is read."""

    code = "model_unsafe"


class ModelFile(Message):
    """One file of a model by content: `path` is its place in the folder."""

    path: str = Field(min_length=1, max_length=MAX_PATH)
    object: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    bytes: Annotated[int, Field(ge=0)]


class BaseModelRef(Message):
    """The base that an adapter is for."""

    model: str
    artifact: str


class ImportModel(JobContract):
    """A model from uploaded `files` or from a hub: fetched, checked in a process of its own, registered as `name`."""

    kind: ClassVar[str] = "inference.import_model"
    queue: ClassVar[str] = "inference.{pool}.import"
    id_prefix: ClassVar[str] = "import-"
    stall_limit_s: ClassVar[float | None] = 900.0

    name: str = Field(pattern=NAME)
    model_kind: Kind | None = None
    base: BaseModelRef | None = None
    files: tuple[ModelFile, ...] = Field((), max_length=MAX_FILES)
    hub_id: str | None = Field(default=None, pattern=HUB_ID)
    revision: str = Field("main", pattern=REVISION)


def is_model_file(path: str) -> bool:
    """Whether a model is served from this file; the others of a folder stay where they are."""
    return len(path) <= MAX_PATH and _FILE.fullmatch(path) is not None


def is_pickle(path: str) -> bool:
    """By its name; what it holds is looked at in the check."""
    return PurePosixPath(path).suffix.lower() in PICKLES


def check_paths(paths: Collection[str], param: str) -> None:
    """Raise UnsafeFile or InvalidInput, with the first file at fault, for what is no model's folder."""
    for path in paths:
        if is_pickle(path):
            raise UnsafeFile(
                f"{path!r} is a pickle, which can run code when read; convert it to .safetensors", param=param
            )
        if not is_model_file(path):
            raise InvalidInput(
                f"{path!r} is no file of a model; it has .safetensors, .json, .jinja, .model and .txt files",
                param=param,
            )
    for path in sorted(paths):
        if list(paths).count(path) > 1:
            raise InvalidInput(f"{path!r} is listed twice", param=param)
    if not any(path.endswith(".safetensors") for path in paths):
        raise InvalidInput(
            "there are no .safetensors weights among the files; other formats are not served", param=param
        )
