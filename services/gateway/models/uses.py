"""What needs a model, or a name that stands for one, and so keeps it from being deleted."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from services.gateway.models import uses_repository as repository
from services.gateway.registry import repository as registry_repository
from shared.contracts.model_registry import PREFIX
from shared.db import Connection
from shared.errors import Conflict

NAMED = 5


def check_unused(connection: Connection, tenant: UUID, model: str) -> None:
    """Raise Conflict (`model_in_use`) for a model that registered versions, or any of `uses_repository`, need.

    Nothing new comes to need it until the transaction ends.
    """
    repository.lock(connection, tenant, model)
    names = repository.names_of(connection, tenant, model)
    users = [few("registered versions", registry_repository.needing(connection, tenant, model, NAMED + 1))]
    for what in repository.USES:
        users.append(few(what, repository.using(connection, what, tenant, model, names, NAMED + 1)))
    _refuse(f"the model {model!r}", users, "model")


def check_name_unused(connection: Connection, tenant: UUID, name: str, versions: int) -> None:
    """The same for a registered name, which may be asked for with a version or without."""
    named = PREFIX + name
    names = [named, *(f"{named}@{number}" for number in range(1, versions + 1))]
    users = []
    for what in repository.OF_A_NAME:
        found = repository.using(connection, what, tenant, named, names, NAMED + 2)
        if what == "gates of registered models":
            # Its own go with it.
            found = [one for one in found if one != name]
        users.append(few(what, found))
    _refuse(f"the registered model {name!r}", users, "name")


def few(what: str, names: Sequence[str]) -> str:
    """The first of them, as a part of a sentence; nothing where there are none."""
    more = ", ..." if len(names) > NAMED else ""
    return f"{what} {', '.join(names[:NAMED])}{more}" if names else ""


def _refuse(what: str, users: Sequence[str], param: str) -> None:
    if any(users):
        raise Conflict(
            f"{what} is needed by {' and by '.join(filter(None, users))}; delete, change or end those first",
            code="model_in_use",
            param=param,
        )
