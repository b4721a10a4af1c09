"""The contracts: what steps, runners and hosts are handed, and that the shipped ones keep
them.
"""

import dataclasses
import inspect
import pathlib

import numpy
import pytest

from edgekit import registry
from edgekit.contracts import BenchProtocol, Context, Host, Runner, Step
from edgekit.progress import Silent
from edgekit.task import Task


def test_a_context_says_nothing_and_teaches_nothing_unless_told(
    tmp_path: pathlib.Path,
) -> None:
    """The defaults are silent, seeded with 0 and without a teacher, and cannot be changed."""
    task = Task(
        name="t", test=(numpy.zeros((2, 3), "float32"), numpy.zeros(2, "int64"))
    )
    context = Context(folder=tmp_path, networks=dict, task=task)
    assert isinstance(context.progress, Silent)
    assert (context.seed, context.teacher, context.teacher_networks) == (
        0,
        None,
        None,
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.seed = 1  # type: ignore[misc]


def test_latency_is_taken_on_one_thread_unless_told() -> None:
    """The protocol that a report's numbers are taken with is one thread, warmed up, in many
    rounds.
    """
    protocol = BenchProtocol()
    assert protocol.threads == 1
    assert protocol.warmup > 0
    assert protocol.rounds >= 30


@pytest.mark.parametrize("name", list(registry.STEPS))
def test_a_steps_methods_have_the_contracts_parameters(name: str) -> None:
    """requires, run and ensures take what contracts.Step says, by the same names."""
    step = registry.STEPS.load(name)
    for method in ("requires", "run", "ensures"):
        wanted = list(inspect.signature(getattr(Step, method)).parameters)
        assert (
            list(inspect.signature(getattr(step, method)).parameters) == wanted
        ), f"{name}.{method}"


@pytest.mark.parametrize("name", list(registry.RUNTIMES))
def test_a_host_opens_and_races(name: str) -> None:
    """Each runtime's host has open and race, with the contract's parameters."""
    host = registry.RUNTIMES.load(name)
    for method in ("open", "race"):
        wanted = list(inspect.signature(getattr(Host, method)).parameters)
        assert (
            list(inspect.signature(getattr(host, method)).parameters)[
                : len(wanted)
            ]
            == wanted
        )


@pytest.mark.parametrize("name", list(registry.AUDITS))
def test_an_audit_takes_an_artifact_and_limits(name: str) -> None:
    """Each format's audit is a function of an artifact and the target's limits."""
    assert list(inspect.signature(registry.AUDITS.load(name)).parameters) == [
        "artifact",
        "limits",
    ]


def test_the_quiet_progress_takes_everything() -> None:
    """Silent answers to every call of the protocol."""
    quiet = Silent()
    quiet.start("work")
    quiet.expect(3)
    quiet.advance(1, "loss 0.1")
    quiet.finish()
    quiet.say("hello")
    assert {"start", "expect", "advance", "finish", "say"} <= set(dir(quiet))


def test_a_runner_is_a_context_manager_that_infers() -> None:
    """The narrow interface of a runner is what the checks use, and no more."""
    assert {name for name in vars(Runner) if not name.startswith("_")} == {
        "infer"
    }
    assert "where" in Runner.__annotations__
