"""Debian's packages for any processor, unpacked into a folder: no root, no chroot, nothing
of the machine's own apt is changed.

apt works on lists, archives and a status file of its own. The mirror is the one that the
machine's apt is configured with, and what is downloaded must be signed by Debian's keys:
that check is apt's, it is switched on whatever the machine's settings are.
"""

import dataclasses
import pathlib
import re
import shutil
import tarfile
from collections.abc import Sequence

from edgekit.errors import HostError
from edgekit.hosts.setup_steps import Failed, Workshop

#: Debian's public keys, from its package debian-archive-keyring; newer releases of it have
#: the second name.
KEYRINGS = (
    pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    pathlib.Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
_RELEASE = re.compile(r"^'(.+)/dists/([^/']+)/InRelease'", re.MULTILINE)
_UNSIGNED = re.compile(
    r"NO_PUBKEY|is not signed|couldn't be verified|EXPKEYSIG|REVKEYSIG|BADSIG"
)
_OFFLINE = re.compile(
    r"Could not resolve|Temporary failure|Could not connect|Unable to connect|Cannot initiate the connection|timed out"
)
_CHECKED = (
    *(
        "-oAPT::Get::AllowUnauthenticated=false",
        "-oAcquire::AllowInsecureRepositories=false",
        "-oAcquire::AllowWeakRepositories=false",
    ),
    *(
        "-oAcquire::AllowDowngradeToInsecureRepositories=false",
        "-oAcquire::Check-Valid-Until=true",
    ),
)


@dataclasses.dataclass(frozen=True)
class Debian:
    """One release of Debian for one processor; ``folder`` holds apt's lists and archives
    and can be removed afterwards.
    """

    work: Workshop
    suite: str
    architecture: str
    folder: pathlib.Path

    def fetch(self, *packages: str, needs: bool = True) -> list[pathlib.Path]:
        """The archives of packages, with ``needs`` also of all that they need."""
        wanted = (
            ["install", "--yes", "--download-only", "--no-install-recommends"]
            if needs
            else ["download"]
        )
        keyring = next((path for path in KEYRINGS if path.is_file()), None)
        if keyring is None or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise _no_debian(
                "apt-get, dpkg-deb or Debian's keys (debian-archive-keyring) are missing here"
            )
        archives = self.folder / "archives"
        for path in (self.folder / "lists" / "partial", archives / "partial"):
            path.mkdir(parents=True)
        (self.folder / "status").touch()
        self._update(keyring)
        try:
            # ``download`` writes to the current folder, so apt is told to go there.
            self.work.run(
                [
                    "env",
                    "--chdir",
                    str(archives),
                    "apt-get",
                    *self._options(),
                    *wanted,
                    *packages,
                ]
            )
        except Failed as failed:
            raise _translated(failed, self.suite) from failed
        return sorted(archives.glob("*.deb"))

    def _update(self, keyring: pathlib.Path) -> None:
        """Read the release's lists from the first configured mirror that has them, signed
        by Debian.
        """
        bases, last = self._bases(), None
        for base in bases:
            (self.folder / "sources.list").write_text(
                f"deb [signed-by={keyring}] {base} {self.suite} main\n", encoding="utf-8"
            )
            try:
                self.work.run(
                    ["apt-get", *self._options(), "-oAPT::Update::Error-Mode=any", "update"]
                )
                return
            except Failed as failed:
                last = last or failed
        raise (
            _translated(last, self.suite)
            if last
            else _no_debian(
                "apt is configured with no mirror that could have Debian's packages"
            )
        )

    def _bases(self) -> list[str]:
        """The mirrors of the machine's apt, as apt itself tells them; those of updates and
        security last. No network.
        """
        nothing = self.folder / "nothing"
        nothing.mkdir()
        try:
            told = self.work.run(
                [
                    "apt-get",
                    f"-oDir::State::Lists={nothing}",
                    "-oDebug::NoLocking=1",
                    "update",
                    "--print-uris",
                ]
            )
        except Failed as failed:
            raise HostError(
                f"apt cannot read its own configuration:\n{failed.tail()}",
                fix="mend it until 'apt-get update' works",
            ) from failed
        return list(
            dict.fromkeys(
                base
                for base, _ in sorted(
                    _RELEASE.findall(told), key=lambda found: "-" in found[1]
                )
            )
        )

    def _options(self) -> list[str]:
        state = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Default-Release": self.suite,
            "Dir::State": self.folder,
            "Dir::State::lists": self.folder / "lists",
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder,
            "Dir::Cache::archives": self.folder / "archives",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "1",
        }
        return [*(f"-o{key}={value}" for key, value in state.items()), *_CHECKED]


def unpack(work: Workshop, archives: Sequence[pathlib.Path], folder: pathlib.Path) -> None:
    """Put the files of packages into a folder. No script of theirs is run."""
    work.progress.expect(len(archives))
    for archive in archives:
        try:
            work.run(["dpkg-deb", "--extract", str(archive), str(folder)])
        except Failed as failed:
            raise HostError(
                f"{archive.name} cannot be unpacked:\n{failed.tail()}",
                fix="set the host up again",
            ) from failed
        work.progress.advance(note=archive.name.partition("_")[0])


def take(work: Workshop, archive: pathlib.Path, name: str, target: pathlib.Path) -> None:
    """One program of a package, without the rest: qemu-user holds 455 MB of them."""
    try:
        with (
            work.reading(["dpkg-deb", "--fsys-tarfile", str(archive)]) as stream,
            tarfile.open(fileobj=stream, mode="r|") as bundle,
        ):
            for member in bundle:
                source = (
                    bundle.extractfile(member)
                    if member.name.removeprefix("./") == name and member.isfile()
                    else None
                )
                if source is not None:
                    with target.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
                    target.chmod(0o755)
                    return
    except (Failed, tarfile.TarError) as failed:
        raise HostError(
            f"{archive.name} cannot be unpacked: {failed}.", fix="set the host up again"
        ) from failed
    raise HostError(
        f"{archive.name} holds no {name}.",
        fix="please report it, with the name of this release of Debian",
    )


def _translated(failed: Failed, suite: str) -> HostError:
    if _UNSIGNED.search(failed.text):
        told = f"The packages of Debian {suite} are not signed by a key that this machine knows, so they are not used:\n{failed.tail()}"
        return HostError(
            told,
            fix="apt-get install debian-archive-keyring (a newer one has the keys of newer releases)",
        )
    if _OFFLINE.search(failed.text):
        return HostError(
            f"apt cannot reach its mirror:\n{failed.tail()}",
            fix="check the network until 'apt-get update' works, then set the host up again",
        )
    return _no_debian(
        f"apt finds no packages of Debian {suite} at its mirrors:\n{failed.tail()}\n"
    )


def _no_debian(why: str) -> HostError:
    return HostError(
        f"edgekit makes this host from Debian's packages, and {why}.",
        fix="install qemu-user 10 or newer and an aarch64 Python in a folder, and name them in a host file of your own: docs/hosts.md, 'Not on Debian'",
    )
