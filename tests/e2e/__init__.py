"""A package, so that the platform of its tests lives as long as the folder's tests and no longer."""
