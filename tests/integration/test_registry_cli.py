"""`heliu registry` against a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared.errors import HeliuError, InvalidInput
from tests.integration.gateway_app import running_gateway
from tests.integration.test_gateway_cli import Heliu


@pytest.fixture
def heliu(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Heliu]:
    with running_gateway(database_url, redis_url, tmp_path / "home") as gateway:
        for model in ("one", "two"):
            gateway.add_model(model)
        yield Heliu(gateway, monkeypatch)


def test_a_name_is_made_gated_promoted_shared_rolled_back_and_told(heliu: Heliu, tmp_path: Path) -> None:
    gates = tmp_path / "gates.yml"
    gates.write_text("data_gate: required\n")
    heliu.run("registry", "create", "service", "--gates", str(gates), "--description", "answers")
    assert heliu.run("registry", "add", "service", "one", "--stage", "--note", "first") == (
        "registry:service@1  staging\n"
    )
    blocked = CliRunner().invoke(app, ["registry", "gate", "service", "1"])
    assert blocked.exit_code == 1
    assert "failed          data_gate: it learned from data" in blocked.output
    with pytest.raises(HeliuError, match="data_gate: it learned from data that nothing is known of"):
        heliu.run("registry", "promote", "service", "1")
    gates.write_text("data_gate: where_known\n")
    heliu.run("registry", "change", "service", "--gates", str(gates))
    assert heliu.json("registry", "gate", "service", "1")["verdict"] == "passed"
    assert "production 1" in heliu.run("registry", "promote", "service", "1", "--reason", "good")
    heliu.run("registry", "add", "service", "two")
    heliu.run("registry", "stage", "service", "2")
    assert "canary 2 (0.1)" in heliu.run("registry", "canary", "service", "2", "0.1")
    with pytest.raises(InvalidInput, match="give VERSION and SHARE, or --end"):
        heliu.run("registry", "canary", "service", "2", "--end")
    assert "canary" not in heliu.run("registry", "canary", "service", "--end")
    assert heliu.json("registry", "promote", "service", "2")["production_version"] == 2
    assert "production 1" in heliu.run("registry", "rollback", "service", "--reason", "complaints")
    told = heliu.json("registry", "history", "service")["data"]
    assert [event["action"] for event in told[:4]] == ["rollback", "promote", "end_canary", "canary"]
    assert "complaints" in heliu.run("registry", "history", "service")
    shown = heliu.run("registry", "show", "service")
    assert "data_gate: where_known" in shown
    assert "archived" in shown
    assert "service" in heliu.run("registry", "list")
    assert heliu.run("registry", "card", "service").startswith("# service@1\n")
    assert heliu.run("models", "card", "two").startswith("# two\n")
    assert heliu.json("registry", "card", "service@2")["registered"]["version"] == 2
    assert heliu.json("registry", "remove", "service")["deleted"] is True


def test_a_rule_for_canaries_is_read_from_a_file_and_gives_the_share(heliu: Heliu, tmp_path: Path) -> None:
    gates, rule = tmp_path / "gates.yml", tmp_path / "canary.yml"
    gates.write_text("data_gate: 'off'\n")
    rule.write_text("share: 0.2\nstop_when: {error_rate_above: 0.05}\n")
    heliu.run("registry", "create", "ruled", "--gates", str(gates), "--canary", str(rule))
    for number, model in enumerate(("one", "two"), 1):
        heliu.run("registry", "add", "ruled", model, "--stage")
        if number == 1:
            heliu.run("registry", "promote", "ruled", "1")
    assert "canary 2 (0.2)" in heliu.run("registry", "canary", "ruled", "2")
    shown = heliu.run("registry", "show", "ruled")
    assert "error_rate_above" in shown
    rule.write_text("share: 0.1\nstop_when: {latency_p95_above_ms: 2000}\nmin_requests: 10\n")
    changed = heliu.json("registry", "change", "ruled", "--canary", str(rule))
    assert changed["canary_rule"]["min_requests"] == 10
    with pytest.raises(InvalidInput, match="one of both"):
        heliu.run("registry", "change", "ruled", "--canary", str(rule), "--no-canary")
    assert heliu.json("registry", "change", "ruled", "--no-canary")["canary_rule"] is None
    assert heliu.json("models", "show", "registry:ruled")["version"] == 1
    assert "registry:ruled" in heliu.run("models", "list")


def test_a_second_key_approves_or_refuses(heliu: Heliu, tmp_path: Path) -> None:
    gates = tmp_path / "gates.json"
    gates.write_text('{"data_gate": "off"}')
    heliu.run("registry", "create", "careful", "--gates", str(gates), "--approval")
    heliu.run("registry", "add", "careful", "one", "--stage")
    waits = heliu.json("registry", "promote", "careful", "1")
    assert waits["status"] == "pending"
    with pytest.raises(HeliuError, match="another key has to"):
        heliu.run("registry", "approve", "careful", waits["id"])
    refused = heliu.json("registry", "reject", "careful", waits["id"], "--reason", "not yet")
    assert refused["status"] == "rejected"
    made = heliu.json("registry", "waive", "careful", "1", "items", "--reason", "small", "--days", "1")
    assert made["check"] == "items"
    assert "heliu registry approve careful" in heliu.run("registry", "change", "careful", "--no-approval")
