"""Several heads on one trunk, trained together: how tasks are mixed, and the run."""
