"""Private folders and files of the local platform: who may enter, where the cluster lies, which sockets fit.
Never changes a folder that it did not make."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.processes import Owner
from shared.errors import ConfigurationError

OUTSIDE = Path("/var/lib/heliu")  # not /var/tmp: that is swept by age
UNPRIVILEGED = "nobody"
SOCKET_FOLDER_BYTES = 85  # of the 107 (103 on macOS) that a socket's path may have, less the file's own name
SECRETS = ("postgres_password", "valkey_password", "otlp_token")


@dataclass(frozen=True)
class Place:
    """Where a cluster lies, the Postgres that runs on it, and as whom (None: as ourselves)."""

    folder: Path
    binaries: Path
    owner: Owner | None
    outside: bool = False


def make_home(home: Path) -> None:
    """Make the data folder, private to us; as root others may pass through to what is theirs, not look.

    Raises ConfigurationError where that cannot be.
    """
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        try:
            home.mkdir(parents=True, mode=mode)
        except FileExistsError:
            if not home.is_dir():
                raise
        else:
            home.chmod(mode)  # whatever the umask takes away; a folder that was there stays as it is
        for name in ("run", "logs", "keys", "artifacts"):
            make_private(home / name)
    except OSError as exc:
        raise ConfigurationError(
            f"{home} cannot be the data folder: {exc}; set HELIU_HOME to a folder that you may write to",
            param="HELIU_HOME",
        ) from exc


def make_private(folder: Path, owner: Owner | None = None) -> None:
    """Make `folder` with mode 0700 for `owner`; one that exists must already be private to the same user."""
    uid = owner.uid if owner else os.geteuid()
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        if not is_private(folder, uid):
            raise ConfigurationError(
                f"{folder} exists and is not a folder that belongs to user {uid} alone; move it away, or "
                f"run: chown {uid} {folder} && chmod 700 {folder}"
            ) from None
        return
    folder.chmod(0o700)
    if owner:
        os.chown(folder, owner.uid, owner.gid)


def is_private(folder: Path, uid: int) -> bool:
    """A true folder (no link) of `uid` that nobody else may enter."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def write_private(path: Path, text: str, *, owner: Owner | None = None, sync: bool = True) -> None:
    """Write a 0600 file whole: readers see the old text or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if owner:
            os.chown(name, owner.uid, owner.gid)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def take_lock(
    path: Path, *, wait: bool = False, shared: bool = False, patience: float = 0.0
) -> IO[str] | None:
    """Hold `path` until the returned file is closed or we die; None when somebody else holds it, and goes on to
    for `patience` seconds. `shared` is for a look whether it is held: looks do not stand in each other's way."""
    file = path.open("a")
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            file.close()
            return None
        return file


def read_secrets(home: Path) -> dict[str, str]:
    """The generated passwords of `home` (names in SECRETS), made on first use in `secrets.json`."""
    path = home / "secrets.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in SECRETS if name not in known]
    if missing:
        known |= {name: secrets.token_hex(32) for name in missing}
        write_private(path, json.dumps(known, indent=1) + "\n")
    return known


def may_pass(path: Path, owner: Owner) -> bool:
    """Whether `owner` may walk down to `path` and into it (by mode bits; access lists are not asked)."""
    return all(admits(folder, owner) for folder in (path, *path.parents))


def admits(folder: Path, owner: Owner) -> bool:
    """Whether the mode bits of `folder` let `owner` pass through it."""
    found = folder.stat()
    if found.st_uid == owner.uid:
        return bool(found.st_mode & 0o100)
    if found.st_gid == owner.gid:
        return bool(found.st_mode & 0o010)
    return bool(found.st_mode & 0o001)


def postgres_place(home: Path, installed: Path, *, store: Path | None = None) -> Place:
    """Where the cluster of `home` lies; decided once and recorded in `postgres.json`.

    As ourselves: `home/postgres`. As root: there too when `nobody` can reach it, else `store/<id>`, with a
    copy of the binaries when those are out of reach as well.
    """
    owner = None
    if os.geteuid() == 0:
        user = pwd.getpwnam(UNPRIVILEGED)
        owner = Owner(user.pw_uid, user.pw_gid)
    record = home / "postgres.json"
    if record.exists():
        folder = Path(json.loads(record.read_text())["folder"])
    elif owner is None or may_pass(home, owner):
        folder = home / "postgres"
    else:
        root = store or OUTSIDE
        if not root.exists():
            root.mkdir(parents=True, mode=0o711)
            root.chmod(0o711)
        if not may_pass(root, owner):
            raise ConfigurationError(
                f"as root, Postgres runs as {UNPRIVILEGED}, which can enter neither {home} nor {root}; set HELIU_HOME "
                "to a folder whose parents everybody may enter, or run as another user",
                param="HELIU_HOME",
            )
        folder = root / f"{hashlib.sha256(str(home).encode()).hexdigest()[:8]}-{secrets.token_hex(4)}"
    outside = folder.parent != home
    make_private(folder, owner)
    if not record.exists():
        write_private(record, json.dumps({"folder": str(folder)}) + "\n")
        if outside:
            write_private(folder / "home", str(home))
    binaries = installed
    if owner and not may_pass(installed / "bin", owner):
        binaries = _copy_binaries(installed, folder / "install")
    return Place(folder, binaries, owner, outside)


def recorded_cluster(home: Path) -> Path | None:
    """The data folder of the cluster of `home`, where one was made."""
    record = home / "postgres.json"
    return Path(json.loads(record.read_text())["folder"]) / "data" if record.exists() else None


def _copy_binaries(installed: Path, target: Path) -> Path:
    """Copy Postgres (30 MB) beside its cluster, keeping the libraries' place relative to it."""
    copied = target / installed.parent.name / installed.name
    if (target / "complete").exists():
        return copied
    remove(target)
    libraries = installed.parent.parent / f"{installed.parent.name}.libs"
    for part in ("bin", "lib", "share"):
        shutil.copytree(installed / part, copied / part, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for folder in (target, *(child for child in target.rglob("*") if child.is_dir())):
        folder.chmod(0o755)
    (target / "complete").touch()
    return copied


def socket_folder(preferred: Path, record: Path, owner: Owner | None) -> Path:
    """A 0700 folder of `owner` short enough for a socket: `preferred`, else a new one in the runtime folder
    or /tmp, remembered in the file `record` and removed by `remove_short_folders`."""
    if len(os.fsencode(preferred)) <= SOCKET_FOLDER_BYTES:
        make_private(preferred, owner)
        return preferred
    uid = owner.uid if owner else os.geteuid()
    if record.exists():
        earlier = Path(record.read_text())
        if is_private(earlier, uid):
            return earlier
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    parent = runtime if owner is None and os.path.isdir(runtime) and len(runtime) < 60 else "/tmp"
    made = Path(tempfile.mkdtemp(prefix="heliu-", dir=parent))
    if owner:
        os.chown(made, owner.uid, owner.gid)
    write_private(record, str(made))
    return made


def remove_short_folders(home: Path) -> None:
    """Remove the socket folders outside of `home`, once nothing runs."""
    for record in (home / "run").glob("*_sockets"):
        remove(Path(record.read_text()))
        record.unlink()


def remove(folder: Path) -> None:
    """Remove a folder of ours with all in it; one that is not there is fine."""
    if folder.exists():
        shutil.rmtree(folder)
