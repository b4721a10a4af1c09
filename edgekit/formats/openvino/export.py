"""ONNX to OpenVINO: ``.xml`` with the graph and ``.bin`` with the weights.

The ONNX file is the source, not the torch graph (openvino 2026.4.1, torch 2.13, measured):
``openvino.convert_model`` of an exported program computes the same numbers at the same
speed, but makes every dimension dynamic, loses the names, and has no translation of a PT2E
graph's quantized convolutions. The Q/DQ file is used as PyTorch exports it, with signed
activations: OpenVINO chooses its own integer types, and the additional channels that ONNX
Runtime needs would only cost it time.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from edgekit.artifact import Artifact, File, FormatName, Part
from edgekit.contracts import Context
from edgekit.errors import NothingToDo, StepError, condense
from edgekit.formats.onnx import graph as onnx_graph
from edgekit.formats.openvino import compress
from edgekit.formats.openvino.library import openvino
from edgekit.scheme import Scheme, find
from edgekit.signature import Signature, TensorSpec
from edgekit.task import SplitName

#: How OpenVINO names nodes without a name: the type and a number that the process counts.
_COUNTED = re.compile(r"[A-Za-z]\w*_\d+(/\w+)*")
#: OpenVINO's names of types, as a signature has them.
_TYPES: Mapping[str, str] = {
    "f32": "float32",
    "f16": "float16",
    "i8": "int8",
    "u8": "uint8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "boolean": "bool",
}


@dataclasses.dataclass(frozen=True)
class OnnxToOpenvino:
    """Write ``<part>.xml`` (role ``model``) and ``<part>.bin`` (role ``weights``).

    The file records the arithmetic that it was verified with (``edgekit/inference_precision``
    in its ``rt_info``): by default OpenVINO executes a float file in bfloat16 on processors
    that have it. ``keep`` names modules (by path) whose weights are not quantized.
    """

    scheme: str = "float"
    keep: tuple[str, ...] = ()

    takes: ClassVar[tuple[FormatName, ...]] = ("onnx",)
    gives: ClassVar[FormatName] = "openvino"
    version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    reads: ClassVar[tuple[SplitName, ...]] = ()

    def requires(self, artifact: Artifact) -> None:
        """A valid ONNX file, and a processor that has the scheme's arithmetic."""
        if precision_of(find(self.scheme)) == "bf16" and not has_bfloat16():
            raise NothingToDo(
                "this processor has no bfloat16 arithmetic: the file would be executed in float32"
            )
        for part in artifact.parts:
            onnx_graph.read(artifact.path(part))

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert every part."""
        context.progress.expect(len(artifact.parts))
        parts, notes = [], {}
        for part in artifact.parts:
            model = _read(artifact, part)
            notes[part.name] = self._write(model, part, context)
            files = {"model": File(path=f"{part.name}.xml")}
            files["weights"] = File(path=f"{part.name}.bin")
            parts.append(part.model_copy(update={"files": files}))
            context.progress.advance(note=part.name)
        return Artifact(
            format="openvino",
            parts=tuple(parts),
            notes={"openvino": openvino.__version__, "parts": notes},
            folder=context.folder,
        )

    def ensures(self, before: Artifact, after: Artifact) -> None:
        """The inputs and outputs are those of the signature."""
        for part in after.parts:
            path, weights = after.path(part), after.path(part, "weights")
            model = openvino.Core().read_model(path, weights)
            check_interface(model, part.signature, path.name)

    def _write(
        self, model: Any, part: Part, context: Context
    ) -> dict[str, Any]:
        scheme = find(self.scheme)
        notes: dict[str, Any] = {"inference_precision": precision_of(scheme)}
        if scheme.method == "weight":
            notes |= compress.quantize(model, scheme.weight_bits, self.keep)
            if not notes["int8"] + notes.get("int4", 0):
                raise NothingToDo(
                    "none of its layers has weights that would become smaller"
                )
        _name_ports(model, part.signature)
        _name_nodes(model)
        record(
            model,
            {
                "scheme": scheme.name,
                **{"inference_precision": precision_of(scheme)},
            },
        )
        half = scheme.method == "cast"
        openvino.save_model(
            model, context.folder / f"{part.name}.xml", compress_to_fp16=half
        )
        return notes


def precision_of(scheme: Scheme) -> str:
    """The arithmetic of what is not quantized, as OpenVINO's INFERENCE_PRECISION_HINT."""
    return "bf16" if scheme.name == "bf16" else "f32"


def has_bfloat16() -> bool:
    """Whether OpenVINO has bfloat16 kernels for this processor."""
    capabilities = openvino.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    )
    return "BF16" in capabilities


def record(model: Any, facts: Mapping[str, str]) -> None:
    """Write how the file must be executed into its ``rt_info``.

    The CPU plugin reads ``runtime_options`` itself. Group size 0 keeps the activations of
    weight-only files in float; by default, processors with VNNI round them to int8 while the
    network runs.
    """
    model.set_rt_info(
        "0", ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"]
    )
    for key, value in facts.items():
        model.set_rt_info(value, ["edgekit", key])


def check_interface(model: Any, signature: Signature, where: str) -> None:
    """Raise StepError unless the model's inputs and outputs are those of the signature."""
    for ports, specs in (
        (model.inputs, signature.inputs),
        (model.outputs, signature.outputs),
    ):
        rows = [(port.get_any_name(), *_type_and_dims(port)) for port in ports]
        expected = [(spec.name, spec.dtype, _free_dims(spec)) for spec in specs]
        if rows != expected:
            raise StepError(
                f"{where} has the interface {rows}, expected {expected}.",
                fix="report it with the network; until then use the target cpu-onnx",
            )


def _read(artifact: Artifact, part: Part) -> Any:
    try:
        # It also folds constants and joins Q/DQ pairs: half as much to describe in the .xml.
        return openvino.convert_model(artifact.path(part))
    except (
        Exception
    ) as error:  # the converter raises whatever one of its translations raises
        raise StepError(
            f"{part.name}: OpenVINO cannot read the ONNX file: {condense(error)}",
            fix="use the target cpu-onnx, or replace the operator in the network",
        ) from error


def _type_and_dims(port: Any) -> tuple[str, list[int | None]]:
    dtype = str(port.get_element_type().get_type_name())
    dims = [
        None if dim.is_dynamic else dim.get_length()
        for dim in port.get_partial_shape()
    ]
    return _TYPES.get(dtype, dtype), dims


def _free_dims(spec: TensorSpec) -> list[int | None]:
    return [dim if isinstance(dim, int) else None for dim in spec.dims]


def _name_ports(model: Any, signature: Signature) -> None:
    """Leave one name for each input and output, in place of all that optimizations joined."""
    for port, spec in zip(model.inputs, signature.inputs, strict=True):
        port.get_tensor().set_names({spec.name})
    for port, spec in zip(model.outputs, signature.outputs, strict=True):
        port.get_tensor().set_names({spec.name})


def _name_nodes(model: Any) -> None:
    """Replace counted names, so that the same network always becomes the same file."""
    for place, node in enumerate(model.get_ordered_ops()):
        if _COUNTED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}.{place}")
