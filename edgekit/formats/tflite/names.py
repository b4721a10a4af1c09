"""PyTorch module paths in the tensor names of TFLite files.

Files that edgekit exports hold complete paths; other files of litert-torch hold class and
attribute names, from which a path is rebuilt.
"""

import re

#: The prefix of module paths in files that edgekit exports.
MARK = "~"
#: Modules that tracing and channel-last inputs put around a network.
_WRAPPERS = ("edgekit_network", "wrapped", "network")
#: A piece of litert-torch's names: package, class, underscore, attribute, such as
#: ``torch.nn.modules.conv.Conv2d_stem``.
_PIECE = re.compile(r"^(?:[\w<>]+\.)*?_?[A-Z][A-Za-z0-9]*_(?P<attribute>\w+)$")


def module_of(name: str) -> str:
    """The path of the module that produced a tensor; empty if its name has none.

    A fused operator has several names, its main one last. litert-torch writes no attribute
    for containers that are only indexed (nn.ModuleList), so paths in files of other tools
    may lack them.
    """
    paths = [_path(part) for part in name.split(";")]
    return next(filter(None, reversed(paths)), "")


def _path(text: str) -> str:
    if text.startswith(MARK):
        return text.removeprefix(MARK).partition("/")[0]
    matches = map(_PIECE.match, text.split("/"))
    attributes = [match["attribute"] for match in matches if match]
    return ".".join(piece for piece in attributes if piece not in _WRAPPERS)
