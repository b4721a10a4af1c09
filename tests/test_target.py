"""Targets: what a device can run, as data that refuses contradictions."""

import pathlib

import pytest

from edgekit import catalog
from edgekit.errors import TargetError
from edgekit.formats.ethosu.vela import ACCELERATORS
from edgekit.formats.tensorrt.nvidia import parse_capability
from edgekit.planning.routes import candidate
from edgekit.scheme import SCHEMES
from edgekit.target import Target, load, too_old

GOOD = {
    "title": "A device",
    "format": "onnx",
    "runtime": "onnxruntime",
    "schemes": ["w8a8-static", "float"],
}


def refusal(folder: pathlib.Path, **changes: object) -> str:
    """What the user is told about a target file."""
    import yaml

    path = folder / "device.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    with pytest.raises(TargetError) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"runtime": "litert"},
            "'litert' cannot load the format 'onnx'; it must be 'onnxruntime'",
        ),
        ({"runtime": "onnxruntim"}, "Did you mean 'onnxruntime'?"),
        ({"schemes": ["fp8"]}, "fp8 cannot be built in the format 'onnx'"),
        ({"schemes": ["w8a8"]}, "Unknown scheme 'w8a8'"),
        ({"schemes": []}, "schemes: "),
        ({"latency": "unmeasured"}, "latency_note: say why"),
        (
            {"limits": {"channel_multipl": 8, "shapes": "fixed"}},
            "limits.channel_multipl: unknown key. Did you mean 'channel_multiple'?",
        ),
        ({"limits": {"max_batch": 0}}, "limits.max_batch: "),
        (
            {
                "limits": {
                    "max_batch": 4,
                    "opt_batch": 8,
                    "profiles": [[4, 2, 8]],
                }
            },
            "1 <= min <= opt <= max does not hold in [1, 8, 4], [4, 2, 8]",
        ),
        ({"limits": {"build": "there"}}, "limits.build: "),
        (
            {"gates": {"sped": 1}},
            "gates.sped: unknown key. Did you mean 'speedup'?",
        ),
        (
            {
                "format": "ethosu",
                "runtime": "ethosu",
                "schemes": ["w8a8-static"],
                "limits": {"accelerator": "ethos-u55-64"},
            },
            "the format 'ethosu' requires system_config, memory_mode (Vela's own names",
        ),
        ({"format": "tflight"}, "Did you mean 'tflite'?"),
        ({"limits": {"batches": [8, 1]}}, "limits.batches: "),
        (
            {"limits": {"batches": [1, 8]}},
            "a file of the format 'onnx' has one signature",
        ),
        ({"name": ".."}, "name: '..' is not a valid folder name"),
        ({"name": "/home"}, "name: '/home' is not a valid folder name"),
        (
            {"gates": {"latency_ms": float("inf")}},
            "gates.latency_ms: input should be a finite number",
        ),
    ],
)
def test_a_contradiction_is_refused(
    tmp_path: pathlib.Path, changes: dict[str, object], said: str
) -> None:
    """A target that no file could satisfy, or a misspelt key, is told when the file is
    read.
    """
    assert said in refusal(tmp_path, **changes)


def test_an_integer_device_refuses_float_schemes() -> None:
    """What the arithmetic of a device cannot run is told with the reason; what it can is
    not refused.
    """
    target = load(catalog.find("targets", "coral-edgetpu"))
    assert target.refuses("w8a8-static") is None
    assert "integer arithmetic" in str(target.refuses("float"))
    assert "has no fp16" in str(target.refuses("fp16"))


def test_several_batches_are_for_tflite_and_leave_out_what_cannot_be_made() -> (
    None
):
    """Sixteen-bit activations are calibrated for one signature; the plan says so before any
    work.
    """
    several = {
        **GOOD,
        "name": "phone",
        "format": "tflite",
        "runtime": "litert",
        "schemes": ["w8a8-static", "w8a16-static"],
        "limits": {"batches": [1, 8]},
    }
    target = Target.model_validate(several)
    assert target.refuses("w8a8-static") is None
    assert "batches: [1]" in str(target.refuses("w8a16-static"))
    planned = {
        step.step: step.parameters
        for step in candidate("w8-dynamic", target, 100).steps
    }
    assert planned["torch_to_tflite"] == {"batches": [1, 8]}
    assert "tune_tflite" not in planned
    one = {
        step.step: step.parameters
        for step in candidate(
            "w8-dynamic", Target.model_validate({**several, "limits": {}}), 100
        ).steps
    }
    assert one["torch_to_tflite"] == {}
    assert "tune_tflite" in one


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in catalog.names("targets")
        if "raspberry" in name or name.split("-")[0] in ("android", "ios")
    ],
)
def test_targets_of_devices_that_are_not_here_are_honest(name: str) -> None:
    """No latency, the way to take it, and that the device was not used."""
    target = load(catalog.find("targets", name))
    assert target.latency == "unmeasured"
    assert "at this host" in target.latency_note
    assert "was not used" in target.accuracy_note
    assert target.limits.channel_multiple == 8


def test_the_old_runtime_gets_no_scheme_that_is_wrong_there() -> None:
    """Measured in docs/devices/mobile.md: one scale a channel is garbage in tflite-runtime
    2.14, 4-bit weights are refused.
    """
    target = load(catalog.find("targets", "raspberry-pi-tflite-runtime"))
    assert target.host == "tflite-runtime"
    assert not {"w8-dynamic", "w4-weight", "w8a16-static"} & set(target.schemes)
    assert "w8-dynamic-tensor" in target.schemes


@pytest.mark.parametrize("name", catalog.names("targets"))
def test_every_shipped_target_holds_together(name: str) -> None:
    """Each target that is shipped loads, can run a scheme of its own, says where its limits
    come from, and is honest about latency.
    """
    target = load(catalog.find("targets", name))
    assert target.name == name
    assert any(target.refuses(scheme) is None for scheme in target.schemes)
    assert target.source
    assert target.latency_note or target.latency == "measured"


def test_the_four_targets_of_the_first_release_are_there() -> None:
    """ONNX Runtime, LiteRT, the Edge TPU and TensorRT are shipped, each with int8 and with
    every scheme of edgekit's own that its format and device can have.
    """
    targets = {
        name: load(catalog.find("targets", name))
        for name in (
            "cpu-onnx",
            "mobile-tflite",
            "coral-edgetpu",
            "rtx-tensorrt",
        )
    }
    assert [target.format for target in targets.values()] == [
        "onnx",
        "tflite",
        "edgetpu",
        "tensorrt",
    ]
    for target in targets.values():
        possible = {
            name
            for name, scheme in SCHEMES.items()
            if scheme.provider == "edgekit" and target.refuses(name) is None
        }
        assert set(target.schemes) == possible
    assert targets["coral-edgetpu"].schemes == ("w8a8-static", "w8a8-qat")
    assert set(targets["rtx-tensorrt"].limits.compute_capabilities) == {
        "SM86",
        "SM89",
        "SM120",
    }


@pytest.mark.parametrize(
    "name",
    [name for name in catalog.names("targets") if name.startswith("ethos-u")],
)
def test_an_ethos_u_is_called_by_its_accelerator_and_is_never_timed(
    name: str,
) -> None:
    """The target's name is what Vela compiles for; its memory is told, its latency
    unmeasured; no float scheme can be shipped.
    """
    target = load(catalog.find("targets", name))
    assert target.limits.accelerator == name in ACCELERATORS
    assert (
        target.latency == "unmeasured"
        and "Vela's estimate" in target.latency_note
    )
    assert target.limits.sram_bytes and "vela.ini" in target.source
    assert [scheme for scheme in SCHEMES if target.refuses(scheme) is None] == [
        "w8a8-static",
        "w8a8-qat",
    ]


def test_a_target_file_takes_its_name_from_the_file(
    tmp_path: pathlib.Path,
) -> None:
    """A new device is a new file: no registration, no code."""
    path = tmp_path / "my-board.yaml"
    path.write_text(
        "title: My board\nformat: tflite\nruntime: litert\nschemes: "
        "[w8a8-static]\nlimits: {channel_multiple: 16}\n"
    )
    target = load(path)
    assert (target.name, target.limits.channel_multiple) == ("my-board", 16)
    assert isinstance(target, Target)


@pytest.mark.parametrize("name", ["SM86", "sm_86", "86", "8.6", " 8.6 "])
def test_a_compute_capability_is_read_in_the_ways_people_write_it(
    name: str,
) -> None:
    """All of them are 86."""
    assert parse_capability(name) == 86


def test_what_is_no_compute_capability_is_none() -> None:
    """The step that builds says so; here it stops nothing."""
    assert (
        parse_capability("ampere"),
        parse_capability("12.0"),
        parse_capability("8"),
    ) == (None, 120, None)
    assert too_old(SCHEMES["fp8"], ("ampere",)) is None


@pytest.mark.parametrize(
    ("scheme", "refused"),
    [
        ("fp8", ("SM75", "SM80", "SM86")),
        ("w4-weight", ("SM75",)),
        ("w8a8-static", ("SM75",)),
        ("float", ("SM75",)),
        ("fp16", ()),
    ],
)
def test_gpus_that_have_no_arithmetic_for_a_scheme(
    scheme: str, refused: tuple[str, ...]
) -> None:
    """Each alone, as TensorRT's own builder refuses them or falls back (measured in
    tests/test_nvidia.py).
    """
    every = ("SM75", "SM80", "SM86", "SM89", "SM120")
    assert (
        tuple(name for name in every if too_old(SCHEMES[scheme], (name,)))
        == refused
    )


@pytest.mark.parametrize(
    ("name", "scheme", "reason"),
    [
        (
            "jetson-orin-nano",
            "fp8",
            "SM87 cannot run fp8, which requires SM89 or newer; use w8a8-static or fp16 there",
        ),
        (
            "datacenter-tensorrt",
            "fp8",
            "SM80 cannot run fp8, which requires SM89 or newer (of this target's compute "
            "capabilities SM89 and SM90 can); ",
        ),
        (
            "rtx-turing",
            "w8a8-static",
            "SM75 cannot run w8a8-static, which requires SM80 or newer; use fp16 there",
        ),
        ("jetson-thor", "fp8", None),
    ],
)
def test_shipped_nvidia_targets_refuse_what_their_gpus_lack(
    name: str, scheme: str, reason: str | None
) -> None:
    """Orin (87) and the A100 (80) have no fp8, Turing has fp16 alone, Thor (110) has all;
    the rest are built on the device where RTX has no SM.
    """
    target = load(catalog.find("targets", name))
    said = target.refuses(scheme)
    assert said is None if reason is None else str(said).startswith(reason)
    assert target.limits.build == (
        "here" if name.startswith("rtx") else "on device"
    )
