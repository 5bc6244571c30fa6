"""What the operator lets sources reach: judged addresses, hosts of the own network, and folders."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.contracts.sources import FOLDERS_SETTING, HOSTS_SETTING, redacted
from shared.errors import HeliuError, InvalidInput, Unavailable
from shared.outbound import Forbidden, Resolve, connect, judged, resolve_host

CONNECT_S = 10.0


class SourceFailed(HeliuError):
    """The source does not give what it was asked for, and will not the next time either."""

    code = "source_failed"


class SourceUnavailable(Unavailable):
    """The source does not answer just now."""

    code = "source_unavailable"


@dataclass(frozen=True)
class Reach:
    """Hosts with ports (0 for any) that may be private, and folders that may be read."""

    hosts: tuple[tuple[str, int], ...] = ()
    folders: tuple[Path, ...] = ()
    resolve: Resolve = field(default=resolve_host)

    def is_listed(self, host: str, port: int) -> bool:
        return (host.lower(), port) in self.hosts or (host.lower(), 0) in self.hosts

    def addresses(self, host: str, port: int) -> list[str]:
        """The judged addresses of a host. Raises Forbidden and SourceUnavailable."""
        try:
            return judged(
                host, port, listed=self.is_listed(host, port), setting=HOSTS_SETTING, resolve=self.resolve
            )
        except Forbidden as exc:
            raise Forbidden(exc.message, param="connection.host") from exc
        except Unavailable as exc:
            raise SourceUnavailable(exc.message, param="connection.host") from exc

    def socket(self, host: str, port: int) -> socket.socket:
        """An open connection to a judged address."""
        addresses = self.addresses(host, port)
        try:
            return connect(addresses, port, CONNECT_S)
        except OSError as exc:
            raise SourceUnavailable(f"{host}:{port} does not take a connection: {exc}") from exc

    def path(self, text: str) -> Path:
        """The real path of what an allowed folder holds. Raises InvalidInput, the same for what is not there."""
        path = Path(text)
        if not self.folders:
            raise InvalidInput(
                f"no folder is open to sources; the operator can open some with {FOLDERS_SETTING}",
                code="path_forbidden",
                param="connection.path",
            )
        real = path.resolve()
        if not (path.is_absolute() and self.holds(real)):
            raise InvalidInput(
                f"{text[:200]!r} is in no folder that the operator opens to sources with {FOLDERS_SETTING}",
                code="path_forbidden",
                param="connection.path",
            )
        if not real.exists():
            raise InvalidInput(f"{text[:200]!r} is not there", code="path_missing", param="connection.path")
        return real

    def holds(self, real: Path) -> bool:
        """Whether a path without links is in an allowed folder."""
        return any(real.is_relative_to(folder.resolve()) for folder in self.folders)


def failed(exc: Exception, credentials: Mapping[str, Any], *, again: bool) -> HeliuError:
    """A driver's error in one line without credentials; `again` says whether it may pass by itself."""
    lines = str(exc).strip().splitlines()
    text = redacted(lines[0] if lines else type(exc).__name__, credentials)[:500]
    return SourceUnavailable(text) if again else SourceFailed(text)
