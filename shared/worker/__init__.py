"""A process of the platform, and what a worker is made of: its parts, its threads, its life."""

from shared.worker.life import Worker, WorkerSpec
from shared.worker.parts import Platform, check_artifact_store, open_platform

__all__ = ["Platform", "Worker", "WorkerSpec", "check_artifact_store", "open_platform"]
