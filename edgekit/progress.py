"""Progress reporting for long-running work.

``edgekit.rendering.progress`` draws bars on a terminal and in a notebook, and prints lines in a
pipe. The default, ``Silent``, reports nothing.
"""

from typing import Protocol


class Progress(Protocol):
    """What steps and checks report while they work. Tasks may be nested."""

    def start(self, name: str) -> None:
        """Start a task inside the current one."""

    def expect(self, total: int) -> None:
        """Set the number of advances that complete the current task."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Advance the current task; ``note`` is short, such as ``loss 0.12``."""

    def finish(self, note: str = "") -> None:
        """Finish the current task."""

    def say(self, text: str) -> None:
        """Show one line to the user."""


class Silent:
    """Discards all progress."""

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
