"""What every test gets: one thread, fixed seeds, a cache of its own, and the checkout's
folder.
"""

import os
import pathlib
import random
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from edgekit.hosts.runner import WorkerHost

# The machine is shared: no test depends on an absolute time.
hypothesis.settings.register_profile("edgekit", deadline=None)
hypothesis.settings.load_profile("edgekit")

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Before any framework is imported: two cores are shared by all that a test starts, and one
# thread gives the same numbers every time.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
# A shell that starts the tests in the background makes them deaf to Ctrl-C, and what they
# start with them.
signal.signal(signal.SIGINT, signal.default_int_handler)


#: Tests that time something, or share the hosts of one run: no other test may run at the same time.
#: `make test JOBS=2` runs them in a second pass.
ALONE = (
    "bench/",
    "checks/test_latency.py",
    "cli/test_hosts.py",
    "cli/test_run.py",
    "docs/",
    "estimates/",
    "hosts/",
    "pipeline/",
    "test_demo.py",
    "whole/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that must run alone."""
    here = pathlib.Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            place = item.path.relative_to(here).as_posix()
            if place.startswith(ALONE):
                item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The checkout's folder."""
    return ROOT


@pytest.fixture(autouse=True, scope="session")
def own_cache(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[pathlib.Path]:
    """A cache that begins empty and is shared by the tests of one run; the user's own is
    not touched.
    """
    folder = tmp_path_factory.mktemp("cache")
    given = os.environ.get("EDGEKIT_CACHE")
    with pytest.MonkeyPatch.context() as patch:
        if given:
            patch.setenv(
                "EDGEKIT_DEMO_CACHE", given
            )  # tests/test_demo.py shares the work of `make demo`
        patch.setenv("EDGEKIT_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True, scope="session")
def own_hosts(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[pathlib.Path]:
    """Where hosts are made, shared by the tests of one run: ``$EDGEKIT_HOSTS`` where it is
    given, else a folder that begins empty.
    """
    folder = pathlib.Path(
        os.environ.get("EDGEKIT_HOSTS") or tmp_path_factory.mktemp("hosts")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_HOSTS", str(folder))
        yield folder


@pytest.fixture(scope="session")
def ready_host(own_hosts: pathlib.Path) -> "Callable[[str], WorkerHost]":
    """Sets a shipped host up (once in a run: pip and apt really work) and reaches it; an
    environment may stand behind a slash.
    """
    from edgekit.hosts import lookup
    from edgekit.progress import Silent

    def ready(name: str) -> "WorkerHost":
        lookup.load_kind(lookup.find_host(name)).setup(Silent())
        return lookup.open_host(name)

    return ready


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers whatever ran before; torch only where a test has imported it."""
    import sys

    random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The results of a real run: int8 for ONNX Runtime and for LiteRT, trained on the
    digits, with bundles. Not to be changed: copy it.
    """
    from edgekit import catalog, recipe, target
    from edgekit.pipeline.run import Options, run
    from edgekit.planning import plan

    settings = {
        "name": "shipped",
        "model": "zoo:cnn",
        "task": "digits",
        "compress": [
            {"train": {"epochs": 4}},
            {"prune": {"ratio": 0.3}},
            {"finetune": {"epochs": 1}},
            {"quantize": {"scheme": "w8a8-static", "samples": 64}},
        ],
        "targets": ["cpu-onnx", "mobile-tflite"],
        "gates": {"accuracy_drop": 0.1, "speedup": 0.01},
    }
    wanted, folder = (
        recipe.Recipe.model_validate(settings),
        tmp_path_factory.mktemp("shipped"),
    )
    # Chosen by rule, so that int8 is shipped on a busy machine too.
    untimed = {
        "latency": "unmeasured",
        "latency_note": "the winner of this test is chosen by rule",
    }
    found = [
        target.load(catalog.find("targets", name)).model_copy(update=untimed)
        for name in wanted.targets
    ]
    planned = plan.plan(wanted, found)
    run(planned, Options(folder / "out", folder / "cache"))
    return folder / "out"
