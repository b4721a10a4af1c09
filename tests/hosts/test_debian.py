"""Debian's packages by the real apt, with its signatures checked, and nothing of the
machine changed.
"""

import pathlib
import shutil
from collections.abc import Iterator

import pytest

from edgekit.errors import HostError
from edgekit.hosts import debian
from edgekit.hosts.debian import Debian
from edgekit.hosts.setup_steps import HostSetup, host_setup
from edgekit.progress import Silent

pytestmark = pytest.mark.skipif(
    shutil.which("apt-get") is None
    or not any(path.is_file() for path in debian.KEYRINGS),
    reason="this machine is no Debian, so there is no apt to try",
)


@pytest.fixture
def work(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HostSetup]:
    """A setup that is at work."""
    monkeypatch.setenv("EDGEKIT_HOSTS", str(tmp_path / "hosts"))
    with host_setup("board", Silent()) as session:
        yield session


def test_a_package_for_another_processor_comes_with_what_it_needs_and_is_unpacked(
    work: HostSetup, tmp_path: pathlib.Path
) -> None:
    """zlib for ARM brings ARM's C library; both are files of ARM in one folder; one file
    can be taken alone.
    """
    archives = Debian(work, "bookworm", "arm64", tmp_path / "apt").fetch(
        "zlib1g"
    )
    names = {path.name.partition("_")[0] for path in archives}
    assert {"zlib1g", "libc6"} <= names and all(
        path.name.endswith("_arm64.deb") for path in archives
    )
    debian.unpack(work, archives, tmp_path / "root")
    (library,) = (
        path
        for path in (tmp_path / "root").rglob("libz.so.*")
        if not path.is_symlink()
    )
    assert library.read_bytes()[18:20] == b"\xb7\x00"  # e_machine: EM_AARCH64
    (zlib,) = (path for path in archives if path.name.startswith("zlib1g_"))
    debian.extract_program(
        work,
        zlib,
        str(library.relative_to(tmp_path / "root")),
        tmp_path / "one",
    )
    assert (tmp_path / "one").read_bytes() == library.read_bytes()
    with pytest.raises(HostError, match="contains no usr/bin/none"):
        debian.extract_program(work, zlib, "usr/bin/none", tmp_path / "two")
    (tmp_path / "broken.deb").write_bytes(zlib.read_bytes()[:5000])
    for call in (
        lambda: debian.extract_program(
            work, tmp_path / "broken.deb", "x", tmp_path / "two"
        ),
        lambda: debian.unpack(work, [tmp_path / "broken.deb"], tmp_path),
    ):
        with pytest.raises(HostError, match=r"broken\.deb cannot be unpacked"):
            call()


def test_packages_that_are_not_signed_by_a_known_key_are_refused(
    work: HostSetup, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a keyring that lacks Debian's keys nothing is fetched, even if apt was configured
    to allow that.
    """
    (tmp_path / "apt.conf").write_text(
        'APT::Get::AllowUnauthenticated "true";\nAcquire::AllowInsecureRepositories "true";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    empty = tmp_path / "empty.gpg"
    empty.write_bytes(b"")
    monkeypatch.setattr(debian, "KEYRINGS", (empty,))
    with pytest.raises(
        HostError,
        match=r"not signed by a key that this machine trusts(.|\n)*debian-archive-keyring",
    ):
        Debian(work, "bookworm", "arm64", tmp_path / "apt").fetch("zlib1g")
    assert not list((tmp_path / "apt" / "archives").glob("*.deb"))


def test_another_system_than_debian_gets_the_other_fix(
    work: HostSetup, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Debian's keys, without apt, or with a mirror that has no such release."""
    monkeypatch.setattr(debian, "KEYRINGS", (tmp_path / "none",))
    with pytest.raises(
        HostError, match=r"are missing(.|\n)*install qemu-user 10 or newer"
    ):
        Debian(work, "bookworm", "arm64", tmp_path / "a").fetch("zlib1g")
    monkeypatch.undo()
    with pytest.raises(
        HostError,
        match=r"found no packages of Debian nonesuch(.|\n)*docs/guides/hosts.md",
    ):
        Debian(work, "nonesuch", "arm64", tmp_path / "b").fetch("zlib1g")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="apt-get, dpkg-deb or Debian's keys"):
        Debian(work, "bookworm", "arm64", tmp_path / "c").fetch("zlib1g")


@pytest.mark.slow  # apt asks a few times
def test_no_network_is_reported(
    work: HostSetup, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror behind a proxy that does not answer is not taken for a missing package."""
    (tmp_path / "apt.conf").write_text(
        'Acquire::http::Proxy "http://127.0.0.1:9/";\nAcquire::https::Proxy "http://127.0.0.1:9/";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    with pytest.raises(HostError, match="apt cannot reach its mirror"):
        Debian(work, "bookworm", "arm64", tmp_path / "apt").fetch("zlib1g")
