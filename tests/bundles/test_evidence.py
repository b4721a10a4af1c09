"""Evidence from other hosts: each for itself, kept in the bundle, and a host that fails
costs only its own line.
"""

import pathlib
import shutil
import sys

import pytest

from edgekit.bundles import bundle, evidence
from edgekit.errors import HostError


@pytest.fixture(params=["cpu-onnx", "mobile-tflite"])
def folder(
    request: pytest.FixtureRequest,
    shipped: pathlib.Path,
    tmp_path: pathlib.Path,
) -> pathlib.Path:
    """A copy of a shipped bundle."""
    return pathlib.Path(
        shutil.copytree(shipped / request.param, tmp_path / request.param)
    )


def host(folder: pathlib.Path, name: str, python: str) -> str:
    """A host file whose Python is ``python``."""
    path = folder / f"{name}.yaml"
    path.write_text(
        f"title: a host\nkind: local\ntimeout_s: 20\nenvironments: "
        f"{{main: {{python: [{python}]}}}}\n"
    )
    return str(path)


def test_this_machine_gives_what_it_gave(folder: pathlib.Path) -> None:
    """Every number is the same, and the speed is a paired ratio with an interval; the
    evidence is kept for this artifact.
    """
    (found,) = evidence.verify(folder, "local")
    parity, speedup = found.measurement("parity"), found.measurement("speedup")
    assert parity is not None and speedup is not None
    assert (found.verdict, found.error, parity.value) == ("pass", "", 0.0)
    assert speedup.low is not None and speedup.low > 0
    manifest = bundle.load(folder)
    assert manifest.bundle is not None
    assert evidence.read_evidence(folder, manifest) == (found,)
    assert (
        evidence.read_evidence(
            folder, manifest.model_copy(update={"key": "another artifact"})
        )
        == ()
    )
    gates = manifest.bundle.model_copy(
        update={"id": "the same file under other gates"}
    )
    assert (
        evidence.read_evidence(
            folder, manifest.model_copy(update={"bundle": gates})
        )
        == ()
    )


def test_a_host_that_fails_is_a_line_and_keeps_what_others_found(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A Python that ends at once, and one that says nothing but noise: unmeasured with the
    reason, and older evidence stays.
    """
    list(evidence.verify(folder, "local"))
    for python in ("/bin/false", "/bin/echo"):
        (found,) = evidence.verify(folder, host(tmp_path, "broken", python))
        assert (
            found.verdict == "unmeasured"
            and found.error
            and not found.measurements
        )
    assert [
        report.host
        for report in evidence.read_evidence(folder, bundle.load(folder))
    ] == ["local"]


def test_evidence_that_cannot_be_read_does_not_count(
    folder: pathlib.Path,
) -> None:
    """Noise in the folder of evidence is passed over."""
    (folder / bundle.EVIDENCE).mkdir()
    (folder / bundle.EVIDENCE / "noise.json").write_text("{")
    assert evidence.read_evidence(folder, bundle.load(folder)) == ()


def test_an_unknown_host_is_a_mistake(folder: pathlib.Path) -> None:
    """A name that no host has is told with the nearest one."""
    with pytest.raises(HostError, match="Did you mean 'local'"):
        list(evidence.verify(folder, "locale"))


def test_a_quick_look_does_not_take_the_place_of_a_whole_one(
    folder: pathlib.Path,
) -> None:
    """Fewer samples and no times are marked partial, and kept only where nothing better is."""
    (quick,) = evidence.verify(folder, "local", 8, timed=False)
    manifest = bundle.load(folder)
    assert quick.partial and evidence.read_evidence(folder, manifest) == (
        quick,
    )
    (whole,) = evidence.verify(folder, "local")
    list(evidence.verify(folder, "local", 8, timed=False))
    assert not whole.partial and evidence.read_evidence(folder, manifest) == (
        whole,
    )


def test_this_machines_speed_is_no_verdict_on_another_device(
    folder: pathlib.Path,
) -> None:
    """The target's latency is unmeasured here: a speedup on this machine is told, and
    passes or fails nothing.
    """
    facts = bundle.load(folder).bundle
    assert facts is not None and facts.device_only and "speedup" in facts.gates
    speedup = next(iter(evidence.verify(folder, "local"))).measurement(
        "speedup"
    )
    assert (
        speedup is not None
        and speedup.value is not None
        and speedup.verdict is None
    )


def test_evidence_is_not_written_through_a_link(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A folder of evidence that leads elsewhere is left alone; the result is told all the
    same.
    """
    (tmp_path / "elsewhere").mkdir()
    (folder / bundle.EVIDENCE).symlink_to(tmp_path / "elsewhere")
    (found,) = evidence.verify(folder, "local", timed=False)
    assert found.verdict == "pass" and not list(
        (tmp_path / "elsewhere").iterdir()
    )


def test_names_that_differ_in_marks_alone_are_kept_apart(
    folder: pathlib.Path,
) -> None:
    """``ssh:pi@b`` and ``ssh:pi-b`` are two hosts."""
    (found,) = evidence.verify(folder, "local", timed=False)
    for name in ("ssh:pi@b", "ssh:pi-b", "h/main", "h-main"):
        evidence.store_evidence(
            folder, bundle.load(folder), found.model_copy(update={"host": name})
        )
    assert {
        row.host for row in evidence.read_evidence(folder, bundle.load(folder))
    } == {
        "local",
        "ssh:pi@b",
        "ssh:pi-b",
        "h/main",
        "h-main",
    }


def test_a_host_with_two_environments_is_asked_in_each(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A host file that is named by its path, too."""
    path = tmp_path / "two.yaml"
    path.write_text(
        f"title: two Pythons\nkind: local\nenvironments: "
        f"{{one: {{python: [{sys.executable}]}}, other: {{python: [{sys.executable}]}}}}\n"
    )
    found = list(evidence.verify(folder, str(path), 8, timed=False))
    assert [row.host for row in found] == [f"{path}/one", f"{path}/other"] and {
        row.verdict for row in found
    } == {"pass"}
