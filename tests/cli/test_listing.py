"""``targets``, ``recipes``, ``models`` and ``schemes``: lists, and one in full."""

import json

import pytest
from click.testing import CliRunner, Result

from edgekit import catalog, registry, scheme
from edgekit import target as values
from edgekit.cli.main import main

NAMES = {
    "targets": catalog.names("targets"),
    "hosts": catalog.names("hosts"),
    "recipes": catalog.names("recipes"),
    "models": list(registry.SOURCES),
    "schemes": list(scheme.SCHEMES),
}


def edgekit(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("word", list(NAMES))
def test_a_list_names_everything(word: str) -> None:
    """The table and --json have the same names, in the same order."""
    done = edgekit(word)
    assert done.exit_code == 0, done.output
    assert [
        line.split()[0]
        for line in done.stdout.splitlines()
        if line.split() and line.split()[0] in NAMES[word]
    ] == NAMES[word]
    assert [
        row["name"] for row in json.loads(edgekit(word, "--json").stdout)
    ] == NAMES[word]


@pytest.mark.parametrize("word", list(NAMES))
def test_show_prints_one_in_full(word: str) -> None:
    """``show NAME`` prints every set value, and --json the same values."""
    name = NAMES[word][0]
    done, data = (
        edgekit(word, "show", name),
        json.loads(edgekit(word, "show", name, "--json").stdout),
    )
    assert done.exit_code == 0, done.output
    assert data["name"] == name
    assert name in done.stdout


def test_the_limits_of_a_target_are_shown() -> None:
    """The values shown are the file's."""
    data = json.loads(
        edgekit("targets", "show", "coral-edgetpu", "--json").stdout
    )
    path, verified = data.pop("file"), data.pop("verified")
    assert data == values.load(
        catalog.find("targets", "coral-edgetpu")
    ).model_dump(mode="json")
    assert path.endswith("coral-edgetpu.yaml")
    assert verified.startswith("accuracy: on the host local")


@pytest.mark.parametrize("name", NAMES["targets"])
def test_show_prints_what_can_be_verified_from_here(name: str) -> None:
    """Accuracy and latency, each with its host, or unmeasured with the reason."""
    target = values.load(catalog.find("targets", name))
    verified = json.loads(edgekit("targets", "show", name, "--json").stdout)[
        "verified"
    ]
    accuracy, _, latency = verified.partition("; latency: ")
    assert f"on the host {target.host}" in accuracy
    assert target.accuracy_note in accuracy
    assert target.latency_note in latency
    assert latency.startswith(
        "unmeasured"
        if target.latency == "unmeasured"
        else f"measured on the host {target.host}"
    )
    assert "verified" in edgekit("targets", "show", name).stdout


@pytest.mark.parametrize(
    ("word", "wrong", "right"),
    [
        ("targets", "cpu-onx", "cpu-onnx"),
        ("recipes", "digit", "digits"),
        ("models", "zoo:resnet9", "zoo:resnet8"),
        ("schemes", "flaot", "float"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    word: str, wrong: str, right: str
) -> None:
    """Exit code 1, the nearest name, no traceback."""
    done = edgekit(word, "show", wrong)
    assert done.exit_code == 1
    assert f"Did you mean {right!r}?" in done.stderr
    assert done.stdout == ""


def test_a_network_with_a_missing_package_has_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list has the package and the command."""
    monkeypatch.setattr(registry, "installed", lambda module: False)
    done = edgekit("models")
    assert "needs torch" in " ".join(done.stdout.split())
    assert json.loads(edgekit("models", "--json").stdout)[0][
        "install"
    ] == registry.install("torch")


@pytest.mark.parametrize("word", list(NAMES))
def test_a_name_without_show_is_answered_with_the_command(word: str) -> None:
    """``targets cpu-onnx`` is a common mistake: exit code 2, and the right command."""
    done = edgekit(word, NAMES[word][0])
    assert done.exit_code == 2
    assert f"edgekit {word} show {NAMES[word][0]}" in done.stderr
