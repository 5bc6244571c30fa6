"""Opens the artifact store that the settings name. Knows no database."""

from __future__ import annotations

from shared.artifacts.bucket import Bucket, Place
from shared.artifacts.cache import ObjectCache
from shared.artifacts.folder import ArtifactStore
from shared.artifacts.s3 import S3ArtifactStore
from shared.artifacts.store import Artifacts
from shared.settings import Settings


def open_artifacts(settings: Settings) -> Artifacts:
    """A folder's store, or a bucket's for `s3://`; nobody is asked yet. Raises ConfigurationError."""
    if not settings.artifacts_in_s3:
        return ArtifactStore(settings.artifact_folder, shared_folder=settings.scratch_folder)
    place = Place.parse(
        settings.artifacts,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key,
    )
    cache = ObjectCache(settings.home / "cache", settings.cache_bytes)
    shared_folder = settings.scratch_folder
    return S3ArtifactStore(
        Bucket(place),
        cache,
        shared_folder or settings.home / "shared",
        shares_folder=shared_folder is not None,
    )
