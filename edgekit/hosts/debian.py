"""Debian's packages for any processor, unpacked into a folder.

Needs no root and no chroot, and does not change the machine's own apt: apt works on separate
lists, archives and a separate status file. The mirror is the one that the machine's apt is
configured with. Downloads must be signed by Debian's keys; apt checks that, and the check is
on whatever the machine's settings are.
"""

import dataclasses
import pathlib
import re
import shutil
import tarfile
from collections.abc import Sequence

from edgekit.errors import HostError
from edgekit.hosts.setup_steps import HostSetup, ProgramFailed

#: Debian's public keys, from its package debian-archive-keyring; newer releases of it use
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
    r"Could not resolve|Temporary failure|Could not connect|Unable to connect"
    r"|Cannot initiate the connection|timed out"
)
_REQUIRE_SIGNATURES = (
    "-oAPT::Get::AllowUnauthenticated=false",
    "-oAcquire::AllowInsecureRepositories=false",
    "-oAcquire::AllowWeakRepositories=false",
    "-oAcquire::AllowDowngradeToInsecureRepositories=false",
    "-oAcquire::Check-Valid-Until=true",
)


@dataclasses.dataclass(frozen=True)
class Debian:
    """One release of Debian for one processor.

    ``folder`` holds apt's lists and archives and can be removed afterwards. All methods
    raise HostError.
    """

    session: HostSetup
    suite: str
    architecture: str
    folder: pathlib.Path

    def fetch(
        self, *packages: str, dependencies: bool = True
    ) -> list[pathlib.Path]:
        """Download packages, by default with all that they depend on."""
        keyring = next((path for path in KEYRINGS if path.is_file()), None)
        if (
            keyring is None
            or not shutil.which("apt-get")
            or not shutil.which("dpkg-deb")
        ):
            raise _not_debian(
                "apt-get, dpkg-deb or Debian's keys (debian-archive-keyring) are missing"
            )
        archives = self.folder / "archives"
        (self.folder / "lists" / "partial").mkdir(parents=True)
        (archives / "partial").mkdir(parents=True)
        (self.folder / "status").touch()
        self._update(keyring)
        # ``download`` writes to the current folder.
        command = ["env", "--chdir", str(archives), "apt-get", *self._options()]
        if dependencies:
            command += [
                "install",
                "--yes",
                "--download-only",
                "--no-install-recommends",
            ]
        else:
            command.append("download")
        try:
            self.session.run([*command, *packages])
        except ProgramFailed as error:
            raise _explain(error, self.suite) from error
        return sorted(archives.glob("*.deb"))

    def _update(self, keyring: pathlib.Path) -> None:
        """Read the release's lists, signed by Debian, from the first configured mirror that
        has them.
        """
        first_error = None
        for mirror in self._list_mirrors():
            (self.folder / "sources.list").write_text(
                f"deb [signed-by={keyring}] {mirror} {self.suite} main\n",
                encoding="utf-8",
            )
            options = [*self._options(), "-oAPT::Update::Error-Mode=any"]
            try:
                self.session.run(["apt-get", *options, "update"])
                return
            except ProgramFailed as error:
                first_error = first_error or error
        if first_error is None:
            raise _not_debian(
                "apt is configured with no mirror of Debian's packages"
            )
        raise _explain(first_error, self.suite)

    def _list_mirrors(self) -> list[str]:
        """The mirrors that the machine's apt prints; those of updates and security last.

        Needs no network.
        """
        empty = self.folder / "nothing"
        empty.mkdir()
        options = [f"-oDir::State::Lists={empty}", "-oDebug::NoLocking=1"]
        try:
            text = self.session.run(
                ["apt-get", *options, "update", "--print-uris"]
            )
        except ProgramFailed as error:
            raise HostError(
                f"apt cannot read its own configuration:\n{error.tail()}",
                fix="repair it until 'apt-get update' works",
            ) from error
        releases = _RELEASE.findall(text)
        # Suites such as bookworm-updates contain a hyphen.
        releases.sort(key=lambda release: "-" in release[1])
        return list(dict.fromkeys(mirror for mirror, _ in releases))

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
        settings = [f"-o{key}={value}" for key, value in state.items()]
        return [*settings, *_REQUIRE_SIGNATURES]


def unpack(
    session: HostSetup,
    archives: Sequence[pathlib.Path],
    folder: pathlib.Path,
) -> None:
    """Extract the files of packages into a folder. None of their scripts is run."""
    session.progress.expect(len(archives))
    for archive in archives:
        try:
            session.run(["dpkg-deb", "--extract", str(archive), str(folder)])
        except ProgramFailed as error:
            raise HostError(
                f"{archive.name} cannot be unpacked:\n{error.tail()}",
                fix="set the host up again",
            ) from error
        session.progress.advance(note=archive.name.partition("_")[0])


def extract_program(
    session: HostSetup,
    archive: pathlib.Path,
    name: str,
    target: pathlib.Path,
) -> None:
    """Extract one program of a package, without the others: qemu-user contains 455 MB."""
    try:
        with (
            session.stream(
                ["dpkg-deb", "--fsys-tarfile", str(archive)]
            ) as stream,
            tarfile.open(fileobj=stream, mode="r|") as package,
        ):
            for member in package:
                if member.name.removeprefix("./") == name and member.isfile():
                    _copy_member(package, member, target)
                    return
    except (ProgramFailed, tarfile.TarError) as error:
        raise HostError(
            f"{archive.name} cannot be unpacked: {error}.",
            fix="set the host up again",
        ) from error
    raise HostError(
        f"{archive.name} contains no {name}.",
        fix="please report it, with the name of this release of Debian",
    )


def _copy_member(
    package: tarfile.TarFile, member: tarfile.TarInfo, target: pathlib.Path
) -> None:
    source = package.extractfile(member)
    assert source is not None
    with target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    target.chmod(0o755)


def _explain(error: ProgramFailed, suite: str) -> HostError:
    if _UNSIGNED.search(error.text):
        return HostError(
            f"The packages of Debian {suite} are not signed by a key that this machine"
            f" trusts, so they are not used:\n{error.tail()}",
            fix="apt-get install debian-archive-keyring (a newer version has the keys of"
            " newer releases)",
        )
    if _OFFLINE.search(error.text):
        return HostError(
            f"apt cannot reach its mirror:\n{error.tail()}",
            fix="check the network until 'apt-get update' works, then set the host up again",
        )
    return _not_debian(
        f"apt found no packages of Debian {suite} at its mirrors:\n{error.tail()}\n"
    )


def _not_debian(reason: str) -> HostError:
    return HostError(
        f"edgekit builds this host from Debian's packages, but {reason}.",
        fix="install qemu-user 10 or newer and an aarch64 Python in a folder, and name them"
        " in your own host file: docs/guides/hosts.md, 'Other systems than Debian'",
    )
