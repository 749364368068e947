"""What encodes keys or values and gives them back: looked at in calibration, then fixed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.kernels import hadamard
from qscale.ptq.statistics import Need, Statistics

#: Rows of a head that calibration keeps at most, where tables are made of them.
ROWS = 4096
#: Bits of a norm, a scale or a number of a table.
NUMBER = 16


class Coder(nn.Module):
    """Gives back ``(batch, heads, tokens, size)`` as it is after it has been stored.

    Args:
        name: Of what is stored, for messages and for what is drawn at random.
        heads: That keep keys and values; queries may have more.
        size: Of a head.
        needs: Statistics of each head, for :meth:`made_of`.
    """

    def __init__(self, name: str, heads: int, size: int, needs: tuple[Need, ...] = ()) -> None:
        super().__init__()
        self.name, self.heads, self.size = name, heads, size
        self.seen: list[Statistics] | None = [
            Statistics(width=size, needs=needs, name=f"{name}, head {head}", limit=ROWS)
            for head in range(heads)
        ]

    def look(self, x: Tensor) -> None:
        """Take in a batch of calibration."""
        assert self.seen is not None
        for head, statistics in enumerate(self.seen):
            statistics.add(x[:, head])

    def fix(self) -> None:
        """Make what encoding needs of what was seen, and forget that."""
        assert self.seen is not None
        self.made_of(self.seen)
        self.seen = None

    def made_of(self, seen: list[Statistics]) -> None:
        """Tables of the statistics of each head."""

    @property
    def bits(self) -> float:
        """Of one element, its share of scales and norms included; tables are not."""
        raise NotImplementedError

    @property
    def table_bits(self) -> int:
        """Of what calibration made, once for all sequences."""
        return 0

    def keep(self, name: str, made: Tensor) -> None:
        """Have a table that is no part of the model's saved weights."""
        self.register_buffer(name, made.float(), persistent=False)


class Looking(nn.Module):
    """Gives back what it gets, and shows it to a coder, made for the heads that it finds.

    Raises:
        ConfigError: A number is not finite.
    """

    def __init__(self, name: str, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.name, self.make = name, make
        self.coder: nn.Module = nn.Identity()
        self.shape: tuple[int, int] | None = None  #: heads, and the size of one

    def forward(self, x: Tensor) -> Tensor:
        """Show ``(batch, heads, tokens, size)``."""
        if self.shape is None:
            self.shape = (x.shape[1], x.shape[3])
            self.coder = self.make(*self.shape).to(x.device)
        if not bool(x.isfinite().all()):
            raise ConfigError(f"{self.name}: calibration found numbers that are not finite")
        self.coder.look(x)  # type: ignore[operator]
        return x


class InHadamard(nn.Module):
    """A coder in the basis of a Hadamard rotation of each head."""

    def __init__(self, coder: Coder, block: int) -> None:
        super().__init__()
        self.coder, self.block = coder, block

    def look(self, x: Tensor) -> None:
        """Rotate, and show it."""
        self.coder.look(hadamard(x, self.block))

    def fix(self) -> None:
        """As the coder."""
        self.coder.fix()

    def forward(self, x: Tensor) -> Tensor:
        """Rotate, store, rotate back."""
        return hadamard(self.coder(hadamard(x, self.block)), self.block, transpose=True)

    @property
    def bits(self) -> float:
        """As the coder's."""
        return self.coder.bits

    @property
    def table_bits(self) -> int:
        """As the coder's."""
        return self.coder.table_bits


def drawn(name: str, rows: int, columns: int) -> Tensor:
    """Standard normal numbers, float64: a function of ``name`` and the shape alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((rows, columns)))


def drawn_rotation(name: str, size: int) -> Tensor:
    """An orthogonal matrix, float64, uniform among all of them: a function of ``name`` and ``size`` alone."""
    Q, R = torch.linalg.qr(drawn(name, size, size))
    # Without the signs of R the columns are not uniform on the sphere.
    rotation: Tensor = Q * torch.where(R.diagonal() < 0, -1.0, 1.0)
    return rotation
