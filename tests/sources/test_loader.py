"""From a model's name to its networks."""

import pathlib

import pytest
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.registry import SOURCES
from edgekit.sources import loader


def spec_of(folder: pathlib.Path, body: str) -> str:
    """A file whose function ``model`` has this body."""
    (folder / "net.py").write_text(
        f"import torch\nfrom torch import nn\nshared = nn.Linear(2, 2)\ndef model():\n    {body}\n"
    )
    return f"{folder}/net.py:model"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_network_of_the_zoo_classifies_images(name: str) -> None:
    """Each zoo network takes 8x8 and odd larger images with any number of channels."""
    network = loader.network_builder(name, 3, 5)()["main"].eval()
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    assert network(torch.zeros(1, 3, 33, 17)).shape == (1, 5)


def test_each_call_makes_a_new_network() -> None:
    """Networks are fresh: nothing is shared between two calls."""
    make = loader.network_builder("zoo:cnn", 1, 10)
    assert make()["main"] is not make()["main"]


def test_the_zoo_needs_images_and_classes() -> None:
    """A task without channels or classes cannot use the zoo, and the error has the reason."""
    with pytest.raises(ModelError, match="class numbers"):
        loader.network_builder("zoo:cnn", 1, None)
    with pytest.raises(ModelError, match="images"):
        loader.network_builder("zoo:cnn", None, 10)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zoo:resnet9", "Did you mean 'zoo:resnet8'"),
        ("resnet8", "Did you mean 'zoo:resnet8'"),
        ("net.py", "no function in it"),
        ("zoo:", "Did you mean 'zoo:cnn'"),
    ],
)
def test_a_wrong_name_gets_a_hint(spec: str, message: str) -> None:
    """The nearest network is offered."""
    with pytest.raises(ModelError, match=message):
        loader.resolve(spec)


def test_a_users_network_is_called_main(tmp_path: pathlib.Path) -> None:
    """A single nn.Module becomes the part main."""
    parts = loader.network_builder(
        spec_of(tmp_path, "return nn.Linear(2, 3)"), None, None
    )()
    assert list(parts) == ["main"]
    assert isinstance(parts["main"], nn.Linear)


def test_parts_keep_their_order(tmp_path: pathlib.Path) -> None:
    """A dict keeps the parts in execution order, whatever their names."""
    parts = loader.network_builder(
        spec_of(
            tmp_path, "return {'z': nn.Linear(2, 3), 'a': nn.Linear(3, 4)}"
        ),
        None,
        None,
    )()
    assert list(parts) == ["z", "a"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "returned int"),
        ("return nn.Linear", "returned type"),
        ("return {}", "empty dict"),
        ("return nn.Linear(2, 2).state_dict()", "weight: Tensor"),
        ("return {'../x': nn.Linear(2, 2)}", "file names"),
    ],
)
def test_what_is_no_network_is_refused(
    tmp_path: pathlib.Path, body: str, message: str
) -> None:
    """Anything but nn.Modules with harmless names is refused."""
    with pytest.raises(ModelError, match=message):
        loader.network_builder(spec_of(tmp_path, body), None, None)()


def test_a_shared_network_is_refused(tmp_path: pathlib.Path) -> None:
    """A function that returns the same object twice would let one step change another's
    network.
    """
    make = loader.network_builder(
        spec_of(tmp_path, "return shared"), None, None
    )
    make()
    with pytest.raises(ModelError, match="the same network"):
        make()


def test_the_fingerprint_sees_the_file_and_its_neighbours(
    tmp_path: pathlib.Path,
) -> None:
    """An edit of the file, or of a module that it imports, changes the hash; another folder
    does not.
    """
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "net.py").write_text("import sizes\ndef model(): ...\n")
        (folder / "sizes.py").write_text("WIDTH = 4\n")
    before = loader.fingerprint(f"{first}/net.py:model")
    assert before == loader.fingerprint(f"{second}/net.py:model")
    (second / "sizes.py").write_text("WIDTH = 8\n")
    assert before != loader.fingerprint(f"{second}/net.py:model")


def test_the_zoos_fingerprint_is_that_of_its_file() -> None:
    """Two depths of one file share a hash; another file has another."""
    assert (
        loader.fingerprint("zoo:resnet8")
        == loader.fingerprint("zoo:resnet20")
        != loader.fingerprint("zoo:cnn")
    )
    assert loader.fingerprint(
        "edgekit.sources.cnn:plain_cnn"
    ) == loader.fingerprint("zoo:cnn")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return torch.jit.script(nn.Linear(2, 2))", "compiled by torch.jit"),
        (
            "return nn.Sequential(nn.LazyLinear(3), nn.ReLU())",
            "the sizes of 0.weight, 0.bias are not known",
        ),
        ("return nn.Linear(2, 2, device='meta')", "on the device meta"),
        (
            "return {'a': nn.Linear(2, 2), 'b': nn.Linear(2, 2, device='meta')}",
            "part b: the network is on the device meta",
        ),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore:Lazy modules:UserWarning"
)
def test_a_network_that_cannot_be_rebuilt_is_refused(
    tmp_path: pathlib.Path, body: str, message: str
) -> None:
    """Compiled, of unknown size, or not on the CPU: refused at once, with a fix."""
    with pytest.raises(ModelError, match=message) as caught:
        loader.network_builder(spec_of(tmp_path, body), None, None)()
    assert caught.value.fix


def test_labels_that_ask_for_an_endless_layer_are_refused() -> None:
    """Class numbers such as 10**13 make a layer that no memory holds."""
    with pytest.raises(
        ModelError, match="10000000000000 classes: out of memory"
    ) as caught:
        loader.network_builder("zoo:cnn", 1, 10**13)()
    assert "number the classes from 0" in (caught.value.fix or "")
