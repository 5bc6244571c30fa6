"""Every setting of the platform, read once from the environment; an unknown `HELIU_` key is refused by name.

One table for all processes, so that any of them can refuse a key that none knows.
"""

from shared.settings.checks import is_loopback
from shared.settings.entries import TRACKERS, PreemptRule
from shared.settings.reading import read_settings
from shared.settings.table import PREFIX, Settings

__all__ = ["PREFIX", "TRACKERS", "PreemptRule", "Settings", "is_loopback", "read_settings"]
