"""How far a pass of ``qscale ptq`` is: a bar on a terminal, a line a block elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from qscale.sweep.terminal import Bars, Event, Lines
from qscale.units import short_time


class BlockLines(Lines):
    """One line for each block, and for what is remarkable about a layer."""

    def __call__(self, event: Event) -> None:
        if event["event"] == "block":
            self.block(event)
        elif event["event"] == "resumed":
            self.line(f"going on after block {event['blocks_done']} of {event['blocks']}")
        else:
            for note in event["notes"]:
                self.line(f"note      {event.get('layer') or event['attention']}: {note}")

    def block(self, event: Event) -> None:
        """A block begins."""
        self.line(f"block {event['block'] + 1} of {event['blocks']}")


class BlockBar(BlockLines, Bars):
    """A bar with the block, the layers that are done and the time left; remarks are printed above it."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self.bar = self.bars.add_task("before", total=1.0, info="")
        self.layers = 0
        self.left = "?"
        self.began: tuple[float, int] | None = None

    def block(self, event: Event) -> None:
        number, blocks = event["block"], event["blocks"]
        now = time.monotonic()
        if self.began is None:
            self.began = now, number
        start, first = self.began
        if number > first:  # the mean of this session's blocks
            self.left = short_time((now - start) / (number - first) * (blocks - number))
        self.bars.update(
            self.bar, description=f"block {number + 1} of {blocks}", total=blocks, completed=number
        )
        self._tell()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if event["event"] == "layer":
            self.layers += 1
            self._tell()

    def _tell(self) -> None:
        self.bars.update(self.bar, info=f"{self.layers} layers done  about {self.left} left")
