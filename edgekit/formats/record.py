"""What edgekit knows about a file format: one literal record a format, without its framework.

The record of a format is ``FORMAT`` in ``edgekit/formats/<name>/format.py``. Every table that
lists formats is derived from the records: the steps of a plan, audits, runtimes, readers of
``edgekit inspect``, file suffixes, extras of pip, versions in reports and cache keys.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar


@dataclasses.dataclass(frozen=True)
class Implementation:
    """Where the code of something is, and what must be installed to import it.

    Attributes:
        where: ``module:attribute``. In a format's record the module is relative to the
            format's folder.
        needs: the modules that it imports; ``a|b`` means either.
        extra: the extra of pip that installs them.
        title: what it does, for lists and ``edgekit doctor``.
    """

    where: str
    needs: tuple[str, ...] = ()
    extra: str = ""
    title: str = ""


#: An implementation of any kind; its class stays the same.
AnyImplementation = TypeVar("AnyImplementation", bound=Implementation)


@dataclasses.dataclass(frozen=True)
class FormatStep(Implementation):
    """A step that makes or changes files of a format.

    Attributes:
        methods: the methods of schemes for which it has work to do; empty: all of them.
        only_if: a property of the scheme that must be true, or must be false if it starts
            with ``not``; empty: no condition.
        parameters: the step's parameters, in the words of ``edgekit.planning.routes``.
        one_signature: it works on files with one signature only.
    """

    methods: tuple[str, ...] = ()
    only_if: str = ""
    parameters: tuple[str, ...] = ()
    one_signature: bool = False


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A device that executes another file of the artifact than a processor does.

    Attributes:
        role: the file of a part that the device loads.
        runtime: the worker's runtime that loads it.
        feature: the key of the device in what a host reports about itself.
        distributions: packages of which the host must have one; empty: none.
        note: what the report shows next to the runtime; ``{}`` stands for the device.
    """

    role: str
    runtime: str
    feature: str
    distributions: tuple[str, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: its name in targets, reports and manifests.
        suffix: of its files; ``edgekit inspect`` recognizes them by it.
        runtime: what a target executes its files with.
        loaded_by: the worker's runtime that loads the ``model`` file on a processor.
        route: the steps from the network to the file, in order. A step that has no work to
            do for a scheme is left out.
        steps: the steps of the route that belong to this format.
        schemes: the schemes that its files can have.
        audit: reads what the runtime executes: ``f(artifact, limits) -> Audit``.
        inspect: reads one file: ``f(path, limits) -> Audit``.
        run: what must be installed to run its files on this machine.
        kernels: the rows of the quantizer's operator table that are int8 in its runtime, in
            the names of runtimes. Several are united.
        distributions: packages that execute its files, any of which will do, under the names
            that pip knows.
        build_distributions: further packages whose versions the report lists.
        other_routes: routes of schemes that need other steps.
        compile_step: the last step of the route, left out for a scheme that the target
            refuses: its float reference stays a file of the format before.
        compile_on_device_step: takes the place of ``compile_step`` if only the device can
            compile.
        stand_in: why a processor's times say nothing about the device; empty: the processor
            is the device.
        stand_in_optimized: the stand-in may be executed with its runtime's optimizations.
        accelerator: the device that executes another file; None: there is none.
        several_signatures: a file can have signatures for several batch sizes.
        required_limits: limits that a target of this format must set.
        limits_help: where to find their values.
        calibrated_only: why only calibrated schemes make sense; empty: all of them do.
        size_note: what the size is measured on, if not on the shipped file.
        weights_suffix: of the separate file of weights (role ``weights``) that the runtime
            loads together with the file; empty: the weights are in the file.
    """

    name: str
    suffix: str
    runtime: str
    loaded_by: str
    route: tuple[str, ...]
    steps: Mapping[str, FormatStep]
    schemes: tuple[str, ...]
    audit: Implementation
    run: Implementation
    inspect: Implementation | None = None
    kernels: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    build_distributions: tuple[str, ...] = ()
    other_routes: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=dict
    )
    compile_step: str = ""
    compile_on_device_step: str = ""
    stand_in: str = ""
    stand_in_optimized: bool = True
    accelerator: Accelerator | None = None
    several_signatures: bool = False
    required_limits: tuple[str, ...] = ()
    limits_help: str = ""
    calibrated_only: str = ""
    size_note: str = ""
    weights_suffix: str = ""

    def absolute(self, implementation: AnyImplementation) -> AnyImplementation:
        """An implementation of this record with the full name of its module."""
        return _absolute(implementation, self.name)


@dataclasses.dataclass(frozen=True)
class Provider:
    """Another package that quantizes instead of edgekit.

    Attributes:
        name: in schemes, as ``Scheme.provider``.
        folder: of its code, in ``edgekit/formats``.
        step_name: of its step in a plan.
        step: quantizes the float network and writes the file.
        replaces: the steps of a format's route that its step stands for.
    """

    name: str
    folder: str
    step_name: str
    step: FormatStep
    replaces: tuple[str, ...]

    @property
    def absolute_step(self) -> FormatStep:
        """Its step with the full name of its module."""
        return _absolute(self.step, self.folder)


def _absolute(
    implementation: AnyImplementation, folder: str
) -> AnyImplementation:
    where = f"edgekit.formats.{folder}.{implementation.where}"
    return dataclasses.replace(implementation, where=where)
