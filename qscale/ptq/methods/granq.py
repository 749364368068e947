"""GranQ: each channel of an input has a scale that is found in the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qscale.errors import ConfigError
from qscale.formats import Recipe
from qscale.ptq.inputs import RuntimeScaled
from qscale.ptq.layers import Site
from qscale.ptq.methods.method import Kind, Step
from qscale.quantizers import Quantizer


@dataclass(frozen=True, slots=True, kw_only=True)
class GranQ(Step):
    """Channel scales of activations from the batch (GranQ, arXiv:2503.18339, from its abstract).

    At run time ``s_j = max|x_j|`` over all tokens of the batch, at least 1e-5, all channels at once; the
    input becomes ``s Q(x / s)`` with the recipe's own input spec, which gives the scale of the layer: with
    ``int4:tensor`` each channel is rounded to a grid of its own. That is how we read "layer-channel" and
    "pre-scaling": the formula of the paper, and how it combines the two levels, are not known to us. The
    paper is about training with data that is made up; here the scales alone are used. Outputs depend on the
    rest of the batch, later tokens included, and a product of integers would need ``s`` in the weights.
    """

    name: ClassVar[str] = "granq"
    kind: ClassVar[Kind] = "transform"

    def check_recipe(self, recipe: Recipe) -> None:
        """Inputs must be quantized."""
        check_inputs(self.name, recipe)

    def wrap(self, site: Site, quantizer: Quantizer) -> Quantizer:  # noqa: ARG002
        """The quantizer with a scale for each channel."""
        return RuntimeScaled(quantizer, "batch")


def check_inputs(name: str, recipe: Recipe) -> None:
    """Raise where a recipe quantizes no inputs."""
    overridden = (spec for key, spec in recipe.overrides.items() if key.endswith(".input"))
    if recipe.input is None and all(spec is None for spec in overridden):
        raise ConfigError(
            f"method {name}: recipe {str(recipe)!r} quantizes no inputs, and their scales are all that it is "
            "about: use w4a4:g32, or another method"
        )
