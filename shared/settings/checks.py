"""What no single setting shows: values and combinations that must not start a process."""

from __future__ import annotations

import ipaddress

from shared.errors import ConfigurationError
from shared.settings.table import PREFIX, Settings


def check(settings: Settings) -> None:
    """Raise ConfigurationError for the first thing that is wrong, by the name of its setting."""
    if settings.auth not in ("on", "off"):
        raise ConfigurationError(
            f"HELIU_AUTH must be 'on' or 'off', got {settings.auth!r}", param="HELIU_AUTH"
        )
    if settings.auth == "off" and not is_loopback(settings.gateway_host):
        raise ConfigurationError(
            f"HELIU_AUTH=off with HELIU_GATEWAY_HOST={settings.gateway_host} would let anybody on the network run "
            "jobs; bind to 127.0.0.1 or turn auth on",
            param="HELIU_GATEWAY_HOST",
        )
    if settings.hub_url and not settings.hub_url.startswith("https://"):
        raise ConfigurationError(
            f"HELIU_HUB_URL must begin with https://, got {settings.hub_url!r}", param="HELIU_HUB_URL"
        )
    if not 0.5 <= settings.resume_seconds <= 3600:
        raise ConfigurationError(
            f"HELIU_RESUME_SECONDS must be from 0.5 to 3600, got {settings.resume_seconds:g}",
            param="HELIU_RESUME_SECONDS",
        )
    if not 0 <= settings.stored_chat_days <= 36_500:
        raise ConfigurationError(
            f"HELIU_STORED_CHAT_DAYS must be from 0, which keeps them, to 36500, got {settings.stored_chat_days:g}",
            param="HELIU_STORED_CHAT_DAYS",
        )
    _check_artifacts(settings)
    if settings.preempt_waiting < 1 or min(settings.preempt_seconds, settings.preempt_calm_seconds) < 0:
        raise ConfigurationError(
            "HELIU_PREEMPT_WAITING must be 1 or more, and the seconds of HELIU_PREEMPT_ 0 or more",
            param="HELIU_PREEMPT_WAITING",
        )
    _ = settings.preempt_rules
    _ = (
        settings.allowed_upstreams,
        settings.allowed_sources,
        settings.allowed_folders,
        settings.wanted_trackers,
    )
    if any(len(secret) < 16 for secret in settings.secret_keys):
        raise ConfigurationError(
            "HELIU_SECRET_KEY holds a secret of less than 16 characters; `openssl rand -hex 32` makes one",
            param="HELIU_SECRET_KEY",
        )
    if settings.upstream_slots < 1 or settings.upstream_silence_seconds <= 0:
        raise ConfigurationError(
            "HELIU_UPSTREAM_SLOTS must be 1 or more and HELIU_UPSTREAM_SILENCE_SECONDS over 0",
            param="HELIU_UPSTREAM_SLOTS",
        )
    for name in ("gateway_port", "otlp_port", "metrics_port"):
        if not 0 <= getattr(settings, name) <= 65535:
            raise ConfigurationError(
                f"{PREFIX}{name.upper()} must be a port between 0 and 65535, got {getattr(settings, name)}",
                param=f"{PREFIX}{name.upper()}",
            )
    if settings.heartbeat_seconds * 2 > settings.lease_seconds:
        raise ConfigurationError(
            f"HELIU_LEASE_SECONDS={settings.lease_seconds} must be at least twice "
            f"HELIU_HEARTBEAT_SECONDS={settings.heartbeat_seconds}",
            param="HELIU_LEASE_SECONDS",
        )


def _check_artifacts(settings: Settings) -> None:
    if "://" in settings.artifacts and not settings.artifacts_in_s3:
        raise ConfigurationError(
            f"HELIU_ARTIFACTS must be a folder or s3://BUCKET/PREFIX, got {settings.artifacts!r}",
            param="HELIU_ARTIFACTS",
        )
    if settings.artifacts_in_s3 and settings.ray_address not in ("", "local"):
        raise ConfigurationError(
            "HELIU_RAY_ADDRESS names a cluster whose nodes read the artifact store's folder, which "
            f"{settings.artifacts} is not; unset it, or use a shared folder",
            param="HELIU_RAY_ADDRESS",
        )
    if bool(settings.s3_access_key_id) != bool(settings.s3_secret_access_key):
        raise ConfigurationError(
            "HELIU_S3_ACCESS_KEY_ID and HELIU_S3_SECRET_ACCESS_KEY go together; set both or none",
            param="HELIU_S3_ACCESS_KEY_ID",
        )


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback addresses; a name that is not an address counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
