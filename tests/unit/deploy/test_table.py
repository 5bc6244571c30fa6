"""The process table as data."""

from __future__ import annotations

import pytest

from deploy.processes import Owner
from deploy.table import Spec, Table, narrow, platform_specs
from shared.errors import InvalidInput


def test_a_table_survives_its_file() -> None:
    owned = Spec("postgres", ("postgres", "-D", "x"), "postgres", owner=Owner(1, 2), env={"A": "b"})
    table = Table(
        (owned, Spec("gateway", ("python",), needs=("postgres",))), {"HELIU_HOME": "/h"}, "http://x"
    )
    assert Table.load(table.dump()) == table


def test_the_platform_starts_nothing_before_the_schema_and_the_keys_are_there() -> None:
    specs = {spec.name: spec for spec in platform_specs([], drain_seconds=30)}
    assert specs["bootstrap"].needs == ("migrate",)
    assert all("bootstrap" in spec.needs for spec in specs.values() if spec.kind == "service")


def test_a_service_is_killed_only_after_its_own_drain_time() -> None:
    assert all(s.grace > 30 for s in platform_specs([], drain_seconds=30) if s.kind == "service")


def test_narrowing_keeps_what_is_needed() -> None:
    specs = platform_specs([], drain_seconds=30)
    assert [spec.name for spec in narrow(specs, ["training"])] == ["migrate", "bootstrap", "training"]


def test_narrowing_to_an_unknown_name_tells_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="there are migrate, bootstrap, gateway"):
        narrow(platform_specs([], drain_seconds=30), ["trainer"])
