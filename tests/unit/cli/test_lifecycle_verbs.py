"""The operator's verbs where nothing runs: what they print, and with which exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from services.cli.lifecycle import home
from services.cli.main import main


@pytest.fixture
def heliu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run the command line; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("HELIU_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["heliu", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def test_status_answers_as_json_when_nothing_runs(heliu, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = heliu("status", "--json")
    assert code == 0
    assert json.loads(out) == {
        "running": False,
        "gateway": None,
        "home": str(tmp_path / "home"),
        "processes": [],
        "servers": {},
    }


def test_down_is_fine_when_nothing_runs(heliu) -> None:  # type: ignore[no-untyped-def]
    assert heliu("down")[:2] == (0, "Nothing was running.\n")


def test_scale_says_how_to_start_when_nothing_runs(heliu) -> None:  # type: ignore[no-untyped-def]
    code, out, err = heliu("scale", "inference=2")
    assert (code, out) == (4, "")
    assert "heliu up" in err


def test_scale_refuses_what_it_cannot_read(heliu) -> None:  # type: ignore[no-untyped-def]
    code, _, err = heliu("scale", "inference=-1")
    assert code == 1
    assert "inference=2" in err


def test_an_unknown_setting_is_a_configuration_error(heliu, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HELIU_GATEWAY_PROT", "1")
    code, _, err = heliu("up")
    assert code == 3
    assert "HELIU_GATEWAY_PORT" in err


def test_logs_of_what_never_ran_are_refused(heliu) -> None:  # type: ignore[no-untyped-def]
    assert heliu("logs", "inference")[0] == 1


def test_doctor_names_the_mend_of_what_is_wrong(heliu, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "home" / "keys").mkdir(parents=True)
    (tmp_path / "home" / "keys").chmod(0o755)
    code, out, _ = heliu("doctor", "--json")
    wrong = {check["name"]: check["mend"] for check in json.loads(out) if not check["ok"]}
    assert code == 1
    assert wrong["permissions"] == f"chmod go-rwx {tmp_path / 'home' / 'keys'}"


def test_the_home_is_found_from_a_folder_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELIU_HOME", raising=False)
    below = tmp_path / "project" / "notes"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert home() == below / ".heliu"
    (tmp_path / "project" / ".heliu").mkdir()
    assert home() == tmp_path / "project" / ".heliu"
    (below / ".heliu").mkdir()
    assert home() == below / ".heliu"


def test_the_home_of_the_users_own_folder_is_not_that_of_all_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HELIU_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".heliu").mkdir()
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    assert home() == tmp_path / "clone" / ".heliu"
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / ".heliu"


def test_a_data_folder_that_cannot_be_made_is_a_configuration_error(heliu, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").touch()
    monkeypatch.setenv("HELIU_HOME", str(tmp_path / "file"))
    code, _, err = heliu("up")
    assert code == 3
    assert "HELIU_HOME" in err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HELIU_GATEWAY_PORT", "99999"),
        ("HELIU_METRICS_PORT", "9464"),
        ("HELIU_DATABASE_URL", "nonsense"),
    ],
)
def test_up_and_doctor_name_a_setting_that_cannot_work_here(heliu, monkeypatch, key, value) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv(key, value)
    code, _, err = heliu("up")
    assert code == 3
    assert key in err
    code, out, _ = heliu("doctor")
    assert code == 1
    assert key in out


def test_what_was_left_of_a_state_file_does_not_stand_in_the_way(heliu, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "home" / "run").mkdir(parents=True)
    (tmp_path / "home" / "run" / "state.json").write_text("")
    assert heliu("down")[0] == 0
