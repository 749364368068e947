"""What listens to events: lines of text, and bars on a terminal with the lines above them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, TextIO

Event = dict[str, Any]


class Lines(ABC):
    """A listener that prints lines; used as a context manager."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Hear of an event."""

    def line(self, text: str) -> None:
        """Print one line."""
        self.out.write(text + "\n")
        self.out.flush()


class Bars(Lines):
    """Bars of ``rich`` in :attr:`bars`; lines are printed above them."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[info]}"),
            console=Console(file=out),
            refresh_per_second=4,
        )

    def __enter__(self) -> Lines:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def line(self, text: str) -> None:
        """Print one line above the bars."""
        self.bars.console.print(text, markup=False, highlight=False)
