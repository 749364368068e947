"""RRS: the outliers of a sequence's channels are divided out while the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qscale.formats import Recipe
from qscale.ptq.inputs import RuntimeScaled
from qscale.ptq.layers import Site
from qscale.ptq.methods.granq import check_inputs
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.quantizers import Quantizer


@dataclass(frozen=True, slots=True, kw_only=True)
class RRS(Step):
    """Rotated Runtime Smooth (arXiv:2409.20361); the rotation is that of ``quarot``: ``quarot+rrs``.

    At run time, for each sequence: ``s_j = max|x_j|`` over its tokens, at least 1e-5; channels in the order
    of ``s``, largest first, in groups of ``group`` with the largest ``s`` of each; ``s Q(x / s)`` in their
    old order, with the recipe's own input spec (the authors': 4 bits a token, ``w4a4:channel``). Nothing is
    calibrated and nothing folded. ``group=1`` without rotation is their Runtime Smooth (RS); a group as long
    as the input does nothing to a spec that scales with its input.

    The maximum runs over a whole sequence, later tokens and all: losses of whole sequences see a little of
    what comes, outputs depend on the length, and where a model flattens its batch (OPT's FFN) on the batch.
    The reordering costs nothing only in a kernel that has it built in; here values are simulated.
    """

    name: ClassVar[str] = "rrs"
    kind: ClassVar[Kind] = "transform"

    group: int = parameter(128, "channels with one scale", low=1, high=2**31)

    def check_recipe(self, recipe: Recipe) -> None:
        """Inputs must be quantized."""
        check_inputs(self.name, recipe)

    def wrap(self, site: Site, quantizer: Quantizer) -> Quantizer:  # noqa: ARG002
        """The quantizer with a scale for each group."""
        return RuntimeScaled(quantizer, "sequence", self.group)
