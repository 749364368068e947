"""The rotation of a recipe: its text, and the block that a width takes. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from qscale.errors import SpecError


def _is_power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


_TEXT = re.compile(r"hadamard:(full|[1-9]\d{0,8})(:signs)?")


@dataclass(frozen=True, slots=True)
class Rotation:
    """A Hadamard rotation of inputs and weights along ``in_features``, whole or block by block.

    Text: ``hadamard:<block>`` or ``hadamard:full``, and ``:signs`` for random signs before it.

    Example:
        >>> Rotation.parse("hadamard:128").block_for(96)
        32
    """

    block: int | None  #: None: the whole axis
    signs: bool = False

    @classmethod
    def parse(cls, text: str) -> Rotation:
        """Read a rotation from its text.

        Raises:
            SpecError: It cannot be read.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise SpecError(
                f"rotation {text!r} cannot be read: use hadamard:128, hadamard:full or hadamard:128:signs"
            )
        return cls(None if match[1] == "full" else int(match[1]), match[2] is not None)

    def __str__(self) -> str:
        return f"hadamard:{'full' if self.block is None else self.block}{':signs' if self.signs else ''}"

    def block_for(self, width: int, has_transform: Callable[[int], bool] = _is_power_of_two) -> int:
        """The block that an axis of ``width`` takes: the one asked for, where it divides the axis.

        Elsewhere, and where ``has_transform`` knows no transform of that size, the largest power of two that
        divides the axis and is not longer than the block asked for: layers of other widths stay rotated.

        Raises:
            SpecError: The width is odd, so that only a block of one is left.
        """
        asked = width if self.block is None else self.block
        if width % asked == 0 and has_transform(asked):
            return asked
        block = width & -width
        while block > asked:
            block //= 2
        if block < 2:
            raise SpecError(f"rotation {self}: an axis of {width} elements has no even block to rotate")
        return block
