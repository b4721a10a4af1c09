"""PyTorch module paths in the tensor names of TFLite files: edgekit's own files hold them
whole, other files of litert-torch in pieces.
"""

import re
from collections.abc import Sequence

#: Stands before a module path in the files that edgekit exports.
MARK = "~"
#: What tracing and channel-last borders put around a network.
_WRAPPERS = ("edgekit_network", "wrapped", "network")
#: A piece of litert-torch's: package, class, and behind its underscore the attribute:
#: ``torch.nn.modules.conv.Conv2d_stem``.
_PIECE = re.compile(r"^(?:[\w<>]+\.)*?_?[A-Z][A-Za-z0-9]*_(?P<attribute>\w+)$")


def module_of(name: str) -> str:
    """The module that made a tensor, as far as its name tells; else nothing.

    A fused operator has several names, its main one last.

    litert-torch writes no attribute of containers that are only indexed (nn.ModuleList), so
    a foreign path may lack them.
    """
    found = [path for part in name.split(";") if (path := _path(part))]
    return found[-1] if found else ""


def inside(module: str, paths: Sequence[str]) -> bool:
    """Whether a module is one of these, or inside of one."""
    return any(module == path or module.startswith(path + ".") for path in paths)


def _path(text: str) -> str:
    if text.startswith(MARK):
        return text[len(MARK) :].partition("/")[0]
    pieces = [
        match["attribute"] for piece in text.split("/") if (match := _PIECE.match(piece))
    ]
    return ".".join(piece for piece in pieces if piece not in _WRAPPERS)
