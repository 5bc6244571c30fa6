"""Personal data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.steps.base import StepBase, Strict

CorePiiType = Literal["email", "phone", "id_card", "bank_card"]
PiiType = Literal["email", "phone", "id_card", "bank_card", "credit_code", "plate", "ip", "passport", "name"]
PiiAction = Literal["mask", "hash", "drop", "flag"]
CORE_TYPES: tuple[CorePiiType, ...] = ("email", "phone", "id_card", "bank_card")


class MaskPiiParams(Strict):
    """Types to look for, what to do with them, and whether the remaining source columns in `meta` are masked too.

    `mask` leaves `[PHONE]`; `hash` leaves a pseudonym such as `[PHONE:kqxvbtmeda]`, the same wherever the number
    stands and however it is written, keyed by `salt`: who has the salt can try numbers, so it is as secret as they
    are; `drop` drops the row; `flag` leaves the row as it is and lists the types in `meta` under `pii`.
    `actions` are for single types, in place of `action`.
    """

    types: list[PiiType] = Field(default=["email", "phone", "id_card", "bank_card"], min_length=1)
    action: PiiAction = "mask"
    actions: dict[PiiType, PiiAction] = Field(default_factory=dict)
    salt: Annotated[str, Field(min_length=8, max_length=256)] | None = None
    meta: bool = True

    def action_of(self, kind: PiiType) -> PiiAction:
        return self.actions.get(kind, self.action)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        unused = [kind for kind in self.actions if kind not in self.types]
        if unused:
            raise ValueError(f"`actions` names `{unused[0]}`, which is not among `types`; add it there")
        hashed = [kind for kind in self.types if self.action_of(kind) == "hash"]
        if hashed and self.salt is None:
            raise ValueError(f"`hash` (of `{hashed[0]}`) needs a `salt` of 8 characters or more")
        return self


class MaskPii(StepBase):
    """Personal data masked, given a pseudonym, flagged, or dropped with its row.

    Version 1 knew the four core types and masked them; a recipe that says `version: 1` may ask for no more.
    """

    before: ClassVar[dict[str, str]] = {
        "length_bounds": "masking changes lengths",
    }

    op: Literal["mask_pii"]
    version: Literal[1, 2] = 2  # type: ignore[assignment]
    params: MaskPiiParams = MaskPiiParams()

    @model_validator(mode="after")
    def _version(self) -> Self:
        params = self.params
        newer = set(params.types) - set(CORE_TYPES) or params.actions or params.action != "mask"
        if self.version == 1 and newer:
            raise ValueError(
                "version 1 of `mask_pii` only masks the types email, phone, id_card, bank_card; say version 2"
            )
        return self
