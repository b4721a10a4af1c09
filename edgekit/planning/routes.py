"""Which steps produce which scheme's file, and with which parameters.

The routes themselves are in the records of the formats. No framework is imported.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekit.artifact import FormatName
from edgekit.formats import FORMATS, PROVIDERS
from edgekit.formats.record import FormatStep
from edgekit.recipe import Effort, Gates
from edgekit.registry import STEP_RECORDS
from edgekit.scheme import SCHEMES, Scheme, Tuning
from edgekit.target import Target

_PLAIN = Tuning()
_LIMIT = "limits."


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A step and its parameters.

    ``intent`` is the recipe's word for it, or the step's own name.
    """

    intent: str
    step: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PlannedCandidate:
    """The steps that follow the shared ones and produce one scheme's file."""

    scheme: str
    steps: tuple[PlannedStep, ...]


@dataclasses.dataclass(frozen=True)
class PlannedTarget:
    """One target's candidates in its order of preference, and the float reference.

    Attributes:
        effort: how much time may go into remedies.
        samples: how many samples they are calibrated on.
        left_out: schemes that are left out, each with the reason.
    """

    target: Target
    reference: PlannedCandidate
    candidates: tuple[PlannedCandidate, ...]
    gates: Gates
    effort: Effort
    samples: int
    left_out: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Request:
    """What the parameters of the steps are taken from."""

    scheme: Scheme
    target: Target
    samples: int
    tuning: Tuning


def candidate(
    name: str, target: Target, samples: int, tuning: Tuning = _PLAIN
) -> PlannedCandidate:
    """Plan one scheme's file for a target.

    ``tuning`` is what a remedy changes; the candidate's name describes it.
    """
    scheme = SCHEMES[name]
    request = _Request(scheme, target, samples, tuning)
    several_signatures = len(target.limits.batches) > 1
    steps = []
    for step in steps_of(scheme, target):
        if not (several_signatures and STEP_RECORDS[step].one_signature):
            steps.append(PlannedStep(step, step, _parameters(step, request)))
    description = tuning.describe()
    label = f"{name}+{description}" if description else name
    return PlannedCandidate(label, tuple(steps))


def steps_of(scheme: Scheme, target: Target) -> tuple[str, ...]:
    """The names of a scheme's steps for a target, in order.

    What the device refuses, such as the float reference of a GPU without float products,
    is not compiled and stays a file of the format before.
    """
    record = FORMATS[target.format]
    names = route(scheme, target.format)
    if not record.compile_step:
        return names
    before = tuple(name for name in names if name != record.compile_step)
    if target.refuses(scheme.name):
        return before
    if target.limits.build == "on device":
        return (*before, record.compile_on_device_step)
    return (*before, record.compile_step)


def route(scheme: Scheme, format: FormatName) -> tuple[str, ...]:
    """The names of the steps from the network to a file with this scheme, in order."""
    record = FORMATS[format]
    if scheme.name in record.other_routes:
        return record.other_routes[scheme.name]
    names = tuple(
        name for name in record.route if _has_work(STEP_RECORDS[name], scheme)
    )
    provider = PROVIDERS.get(scheme.provider)
    if provider is None:
        return names
    return (
        provider.step_name,
        *(name for name in names if name not in provider.replaces),
    )


def _has_work(step: FormatStep, scheme: Scheme) -> bool:
    """Whether a step changes anything for a scheme."""
    if step.methods and scheme.method not in step.methods:
        return False
    if not step.only_if:
        return True
    name = step.only_if.removeprefix("not ")
    holds = bool(getattr(scheme, name))
    return holds != step.only_if.startswith("not ")


def _parameters(step: str, request: _Request) -> dict[str, Any]:
    """The parameters of a step, by the words in its record."""
    parameters: dict[str, Any] = {}
    for word in STEP_RECORDS[step].parameters:
        parameters |= _parameter(word, request)
    return parameters


def _parameter(word: str, request: _Request) -> dict[str, Any]:
    """One parameter by name; empty if the step's default holds."""
    limits = request.target.limits
    if word.startswith(_LIMIT):
        name = word.removeprefix(_LIMIT)
        return {name: limits.model_dump(mode="json")[name]}
    if word == "keep":
        return (
            {"keep": list(request.tuning.keep)} if request.tuning.keep else {}
        )
    if word == "tuning":
        changes = request.tuning.model_dump(mode="json", exclude_defaults=True)
        return {"tuning": changes} if request.tuning != _PLAIN else {}
    if word == "batches":
        return (
            {"batches": list(limits.batches)} if len(limits.batches) > 1 else {}
        )
    if word == "io":
        return {"io": limits.io} if limits.io != "any" else {}
    return {word: _value(word, request)}


def _value(word: str, request: _Request) -> Any:
    scheme, target = request.scheme, request.target
    values = {
        "scheme": scheme.name,
        "samples": request.samples,
        "runtime": target.runtime,
        "symmetric": scheme.symmetric
        or target.limits.activations == "symmetric",
        "parity_steps": scheme.parity_steps,
    }
    return values[word]
