"""Content-addressed objects and trees, in a local folder or an S3 bucket. An id is `sha256:<hex>`."""

from shared.artifacts.folder import ArtifactStore
from shared.artifacts.opening import open_artifacts
from shared.artifacts.s3 import S3ArtifactStore
from shared.artifacts.store import ID, Artifacts, Source, Stored

__all__ = ["ID", "ArtifactStore", "Artifacts", "S3ArtifactStore", "Source", "Stored", "open_artifacts"]
