"""Results that backward makes again, so that they need not be kept: nodes of the graph that can do so.

A node offers it by the attribute ``make_again``, a function of the node. It may keep what it made until its
own gradient is due: every other that needs it has then had its turn.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def maker_of(y: Tensor) -> Any:
    """The node that gave ``y`` if it can do so again, the same bits, or None.

    What needs ``y`` in backward may keep the node in its place, and so one tensor less.
    """
    return y.grad_fn if hasattr(y.grad_fn, "make_again") else None


def made_again(saved: Tensor | None, maker: Any) -> Tensor:
    """What was saved, or else what the node gave; in the backward pass alone."""
    result: Tensor = maker.make_again(maker) if saved is None else saved
    return result
