"""What stands between the commas of a setting that holds several."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import ConfigurationError

TRACKERS = ("mlflow", "wandb")
_PREEMPT = re.compile(r"training\.(?!light:)[A-Za-z0-9_-]+:inference\.[A-Za-z0-9_-]+")
_HOST = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*\.?")


@dataclass(frozen=True)
class PreemptRule:
    """Jobs of the queue `yields` give way to live requests of the pool `to`, e.g. training.gpu to inference.gpu."""

    yields: str
    to: str

    @classmethod
    def parse(cls, entry: str) -> PreemptRule:
        if not _PREEMPT.fullmatch(entry):
            raise ConfigurationError(
                f"HELIU_PREEMPT holds {entry!r}, which is not of the form training.POOL:inference.POOL",
                param="HELIU_PREEMPT",
            )
        return cls(*entry.split(":"))

    def __str__(self) -> str:
        return f"{self.yields}:{self.to}"


def listed(text: str) -> Iterator[str]:
    """The entries of a list with commas between, without the spaces around them; empty ones do not count."""
    return filter(None, (entry.strip() for entry in text.split(",")))


def tracker(entry: str) -> str:
    """The entry where it names a tracker that is known. Raises ConfigurationError."""
    if entry not in TRACKERS:
        raise ConfigurationError(
            f"HELIU_TRACKERS holds {entry!r}; known are {', '.join(TRACKERS)}", param="HELIU_TRACKERS"
        )
    return entry


def absolute_folder(entry: str, key: str) -> Path:
    """Raises ConfigurationError for a folder that is not given from / on."""
    folder = Path(entry)
    if not folder.is_absolute():
        raise ConfigurationError(f"{key} holds {str(folder)!r}; give each folder from / on", param=key)
    return folder


def host_and_port(entry: str, key: str) -> tuple[str, int]:
    """Host and port of HOST or HOST:PORT; port 0 is any. Raises ConfigurationError that names the setting `key`."""
    try:
        parts = urlsplit(f"//{entry}")
        host, port = parts.hostname or "", parts.port
        if "[" in entry:
            ipaddress.IPv6Address(host)
        elif not _HOST.fullmatch(host):
            raise ValueError("not a host")
    except ValueError:
        host, port = "", 0
    if not host or port == 0 or parts.netloc != entry or "@" in entry or len(host) > 253:
        raise ConfigurationError(
            f"{key} holds {entry!r}, which is no HOST or HOST:PORT; a host is a name or an address, IPv6 in brackets",
            param=key,
        )
    return host, port or 0
