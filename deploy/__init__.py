"""How the platform is put on a machine: embedded servers, supervisor, images and manifests."""
