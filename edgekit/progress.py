"""How long work tells that it goes on.

The command line draws bars; a pipe gets lines; the default says nothing.
"""

from typing import Protocol


class Progress(Protocol):
    """What a step or a check may say while it works."""

    def start(self, name: str) -> None:
        """A piece of work begins."""

    def expect(self, total: int) -> None:
        """The current work will come to ``total`` advances."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Some of the current work is done; ``note`` is a short word such as ``loss 0.12``."""

    def finish(self, note: str = "") -> None:
        """The current work is done."""

    def say(self, text: str) -> None:
        """One line for the user."""


class Silent:
    """Says nothing."""

    def start(self, name: str) -> None:
        pass

    def expect(self, total: int) -> None:
        pass

    def advance(self, amount: int = 1, note: str = "") -> None:
        pass

    def finish(self, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass
