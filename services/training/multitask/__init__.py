"""Several heads on one trunk, trained together: how tasks are mixed, and the run.

Each task's folder is a whole head, trunk and all; the store keeps the trunk's bytes once, because they are the same. So
nothing that serves knows of tasks, and a worker that holds two of them holds the trunk twice.
"""
