"""Models by name: served here, at an upstream, or wherever a request names one."""
