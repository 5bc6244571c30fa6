"""What the environment may say, and what is refused by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, is_loopback, read_settings


def test_without_an_environment_the_defaults_stand() -> None:
    assert read_settings({"PATH": "/bin"}) == Settings()


def test_values_are_read_by_type() -> None:
    settings = read_settings(
        {
            "HELIU_HOME": "/data/合流",
            "HELIU_SLOTS": "3",
            "HELIU_LEASE_SECONDS": "1.5",
            "HELIU_HEARTBEAT_SECONDS": "0.5",
            "HELIU_TEST_FAULTS": "on",
        }
    )
    assert settings.home == Path("/data/合流")
    assert (settings.slots, settings.lease_seconds, settings.test_faults) == (3, 1.5, True)
    assert settings.artifact_folder == Path("/data/合流/artifacts")


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="did you mean HELIU_REDIS_URL") as caught:
        read_settings({"HELIU_REDISURL": "x"})
    assert caught.value.param == "HELIU_REDISURL"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HELIU_SLOTS", "many"),
        ("HELIU_LEASE_SECONDS", ""),
        ("HELIU_TEST_FAULTS", "perhaps"),
        ("HELIU_AUTH", "maybe"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings({key: value})
    assert caught.value.param == key


def test_an_open_door_on_the_network_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="anybody on the network"):
        read_settings({"HELIU_AUTH": "off", "HELIU_GATEWAY_HOST": "0.0.0.0"})
    assert read_settings({"HELIU_AUTH": "off", "HELIU_GATEWAY_HOST": "::1"}).auth == "off"


def test_a_lease_must_outlive_two_heartbeats() -> None:
    with pytest.raises(ConfigurationError, match="at least twice"):
        read_settings({"HELIU_LEASE_SECONDS": "10", "HELIU_HEARTBEAT_SECONDS": "6"})


def test_what_a_process_needs_is_named_when_it_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="HELIU_DATABASE_URL, HELIU_REDIS_URL"):
        Settings().require("database_url", "redis_url")


def test_every_setting_is_documented() -> None:
    assert all(len(field.metadata["doc"]) > 10 for field in fields(Settings))


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("127.0.0.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_only_loopback_is_loopback(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_hosts_of_upstreams_are_names_and_addresses_with_or_without_a_port() -> None:
    settings = read_settings(
        {"HELIU_UPSTREAM_HOSTS": "GPU1, vllm.cluster:8000,10.0.0.5, [::1]:80,[fd00::2],"}
    )
    assert settings.allowed_upstreams == (
        ("gpu1", 0),
        ("vllm.cluster", 8000),
        ("10.0.0.5", 0),
        ("::1", 80),
        ("fd00::2", 0),
    )


@pytest.mark.parametrize(
    "entry",
    ["*", "*.cluster", "http://gpu1", "gpu1/v1", "gpu1:0", "gpu1:99999", "u@gpu1", "::1", "[gpu1]", "a b"],
)
def test_a_malformed_host_of_upstreams_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="HELIU_UPSTREAM_HOSTS holds") as caught:
        read_settings({"HELIU_UPSTREAM_HOSTS": f"fine, {entry}"})
    assert caught.value.param == "HELIU_UPSTREAM_HOSTS"
    assert repr(entry) in caught.value.message
