"""What a training child is asked to do: the first frame on its stdin, checked. Knows no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.contracts.generation_config import Settings
from shared.contracts.heads import HeadChoice
from shared.errors import InvalidInput

Kind = Literal["pretrain", "sft", "dpo", "evaluate", "head", "encoder", "multi_task", "likelihood"]


class DataPaths(BaseModel):
    """Local files: governed Parquet (rows are picked by their `split` column) or JSONL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()


class PartSpec(BaseModel):
    """One task of several on a trunk. `settings` are what its loss asks for, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    choice: HeadChoice
    weight: float = Field(default=1.0, gt=0)
    settings: dict[str, float] = Field(default_factory=dict)
    data: DataPaths


class Spec(BaseModel):
    """One run. `workdir` holds checkpoints and scratch; `output_dir` is made by the run and must not exist yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    seed: int = Field(default=0, ge=0, lt=2**32)
    workdir: Path
    output_dir: Path
    resume_from: Path | None = None
    data: DataPaths
    base_dir: Path | None = None
    adapter_dir: Path | None = None
    choice: HeadChoice | None = None
    method: Literal["full", "lora"] | None = None
    parts: tuple[PartSpec, ...] = ()
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    # Settings that the model is to have where a request does not say.
    decoding: Settings = Field(default_factory=dict)
    threads: int = Field(default=2, ge=1, le=1024)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Spec:
        if (self.kind == "multi_task") != bool(self.parts and self.method):
            raise ValueError("parts and method are what a multi_task run is of, and no other")
        if self.kind not in ("evaluate", "multi_task", "likelihood") and not self.data.train:
            raise ValueError(f"data.train is empty; a {self.kind} run needs at least one file")
        if self.kind in ("evaluate", "likelihood") and not self.data.validation:
            raise ValueError(
                f"data.validation is empty; a run of the kind {self.kind} needs at least one file"
            )
        if (self.kind == "head") != (self.choice is not None):
            raise ValueError("choice is what a head run is of, and no other")
        scratch = self.kind in ("pretrain", "encoder") or (
            self.choice is not None and self.choice.method == "lstm"
        )
        if not scratch and self.base_dir is None:
            raise ValueError(f"base_dir is missing; a {self.kind} run needs the folder of a base model")
        if scratch and self.kind != "pretrain" and self.base_dir is not None:
            raise ValueError(f"base_dir is given, but this {self.kind} run starts from nothing")
        if self.adapter_dir is not None and self.base_dir is None:
            raise ValueError("adapter_dir is given without base_dir; an adapter stands on its base")
        return self


def parse_spec(frame: dict[str, Any]) -> Spec:
    """Raises InvalidInput that names the first field at fault."""
    try:
        return Spec.model_validate(frame)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "spec"
        raise InvalidInput(f"{place}: {first['msg']}", code="invalid_spec", param=place) from exc
