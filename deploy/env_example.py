"""Makes `.env.example` from the settings themselves: `python -m deploy.env_example > .env.example`."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import fields

from shared.settings import PREFIX, Settings

HEAD = """\
# Settings of the platform. Copy to `.env` for docker compose, or export what you need before `heliu up`.
# A line that is commented out shows the default. An unknown HELIU_ key is refused at start.

# --- docker compose needs these four: long random letters and digits, e.g. from `openssl rand -hex 24`
POSTGRES_PASSWORD=
REDIS_PASSWORD=
HELIU_OTLP_TOKEN=
HELIU_SECRET_KEY=

# Where docker compose publishes the gateway (port 8000) and Jaeger's UI (16686); 0.0.0.0 for the whole network
# PUBLISH_ADDRESS=127.0.0.1

# --- every setting
"""
SET_ABOVE = ("otlp_token", "secret_key")


def text() -> str:
    """The whole file."""
    parts = [HEAD]
    for field in fields(Settings):
        note = textwrap.fill(
            str(field.metadata["doc"]),
            110,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
        )
        default = ("off", "on")[field.default] if isinstance(field.default, bool) else field.default
        where = " (set above)" if field.name in SET_ABOVE else ""
        parts.append(f"\n{note}{where}\n# {PREFIX}{field.name.upper()}={default}\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(text())
