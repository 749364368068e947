"""A law as a source of delta: which recipes it is about, what it counts, and its draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qscale import bounded
from qscale.errors import PlanError, SpecError
from qscale.formats import QuantSpec, Recipe
from qscale.formats.recipe import without_span
from qscale.laws import Law, load
from qscale.laws.forms import FloatArray
from qscale.planning.architecture import Architecture

DRAWS = 1000  #: of every forecast
_UNQUANTIZED = ("none", "16")  # the level of a law in which nothing is quantized
_BITS = {"Pw": "weight", "Pa": "input", "Pkv": "kv"}
_WHOLE = 16.0
_MOST = 200  # recipes of a law: each is an option of every model
_LONGEST = 120  # letters of a text that a law file brings into a line
_LEVELS = {"fp4_e2m1": "fp4"}  # names of schemes in published laws
_ALIKE = math.sqrt(math.pi / 2)  # standard deviation over mean magnitude of a normal error

Count = Literal["non-embedding", "total", "unknown"]
Basis = Literal["draws", "printed error", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A law and the name that a plan calls it by."""

    label: str
    law: Law
    also: tuple[str, ...] = ()  #: recipes that it is taken to cover beside its own

    @classmethod
    def of(cls, law: Law | str | Path, also: tuple[str, ...] = ()) -> Source:
        """A law, a published id or a law file, checked.

        Raises:
            LawError: It cannot be read.
            PlanError: It is not identified, tells no loss in nats per token, or lists too many recipes.
        """
        if not isinstance(law, Law):
            label, law = str(law), load(law)
        else:
            label = bounded.one_line(law.name or law.law_id[:15], _LONGEST)
        if not law.usable:
            raise PlanError(f"law {label}: it must not be used: {law.status}")
        if law.form.unit != "nats per token":
            raise PlanError(f"law {label} gives {law.form.target} in {law.form.unit}, not nats per token")
        if any("bits per character" in str(text) for text in (law.data.get("corpus"), *law.notes)):
            raise PlanError(f"law {label} is of losses in bits per character, not nats per token")
        source = cls(label, law, also)
        if len(source.recipes) > _MOST:
            raise PlanError(f"law {label} lists {len(source.recipes)} recipes; a plan takes at most {_MOST}")
        return source

    @property
    def variables(self) -> tuple[str, ...]:
        """Of the law's form."""
        return tuple(v.name for v in self.law.form.variables)

    @property
    def counts(self) -> Count:
        """How the law counts N."""
        text = self.law.conventions.get("N", "")
        if "embeddings included" in text:
            return "total"
        bare = ("except token and position embeddings", "without embeddings", "all parameters but")
        return "non-embedding" if any(part in text for part in bare) else "unknown"

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes that the law is about; with a span (``:channel``) of that granularity alone."""
        named = self.law.quantization.get("recipe")
        listed = self.law.data.get("recipes")
        own = [named] if named else listed if isinstance(listed, list) else []
        return tuple(bounded.one_line(text, _LONGEST) for text in (*own, *self.also))

    @property
    def after_training(self) -> bool:
        """Whether the law is of quantization after training, which costs no training."""
        return self.law.quantization.get("mode") == "ptq"

    @property
    def how(self) -> str:
        """``gptq`` after training, else ``QAT``."""
        method = self.law.quantization.get("method")
        return bounded.one_line(method or "ptq", _LONGEST).lower() if self.after_training else "QAT"

    @property
    def basis(self) -> Basis:
        """What the band of the law rests on."""
        if self.law.draws_table is not None:
            return "draws"
        return "none" if self._printed_sd() is None else "printed error"

    def why_not(self, recipe: Recipe, architecture: Architecture | None = None) -> str | None:
        """Why the law says nothing of a recipe, or of this model; None where it does."""
        text = str(recipe)
        if not self.recipes:
            return f"law {self.label} does not say which recipes it is about"
        if text not in self.recipes and without_span(text) not in self.recipes:
            known = bounded.one_line(", ".join(self.recipes))
            return f"law {self.label} is about {known}, not {text}"
        try:
            for name in self.variables:
                if name not in ("N", "D", "G"):
                    self._own(name, recipe)
            if architecture is not None:
                self._size(architecture)
        except PlanError as error:
            return str(error)
        operand = recipe.weight or recipe.input
        if "G" in self.variables and (operand is None or operand.strategy == "tensor"):
            return f"law {self.label} is about groups; {recipe} has one scale for a whole tensor"
        return None

    def point(self, architecture: Architecture, D: float, recipe: Recipe | None) -> dict[str, Any]:
        """The variables of the law for a model and its recipe.

        Raises:
            PlanError: The law is not about the recipe, or counts N in a way that a typical shape leaves open.
        """
        out: dict[str, Any] = {}
        for name in self.variables:
            if name == "N":
                out[name] = float(self._size(architecture))
            elif name == "D":
                out[name] = float(D)
            elif recipe is None:
                raise PlanError(f"law {self.label} needs {name}, which a model without quantization lacks")
            elif name == "G":
                out[name] = group_length(architecture, recipe)
            else:
                out[name] = self._own(name, recipe)
        return out

    def predict(self, point: Mapping[str, Any]) -> Any:
        """The target at a point; of a law of losses, its rise above the unquantized model's.

        A float, or an array where a variable is one.
        """
        rest = self._unquantized(point)
        value = self.law.predict(**point)
        return value if rest is None else value - self.law.predict(**rest)

    def draws(self, point: Mapping[str, Any]) -> FloatArray | None:
        """:data:`DRAWS` of :meth:`predict`, ``(draws, *shape)``; None where the law has none.

        Those of two points of one law go together; those of two laws are independent.

        A law without draws whose source prints a mean relative error has draws of that error: one factor for
        all points, lognormal.
        """
        table = self.law.draws_table
        if table is None:
            sd = self._printed_sd()
            if sd is None:
                return None
            factors = np.exp(sd * self._rng().standard_normal(DRAWS))
            return np.multiply.outer(factors, np.asarray(self.predict(point), dtype=np.float64))
        # In an order of the law's own: the draws of two laws are independent.
        rng, count = self._rng(), len(table.values)
        order = np.concatenate([rng.permutation(count) for _ in range(-(-DRAWS // count))])[:DRAWS]
        drawn = self.law.draws(None, **point)
        rest = self._unquantized(point)
        if rest is not None:
            drawn = drawn - self.law.draws(None, **rest)
        return np.asarray(drawn[order], dtype=np.float64)

    def outside(self, point: Mapping[str, Any]) -> dict[str, float]:
        """How many times outside the fitted box each variable lies; those inside are left out."""
        return {name: float(times) for name, times in self.law.outside(**point).items() if times > 1}

    def is_delta(self) -> bool:
        """Whether the law tells what quantization adds."""
        names = set(self.variables) - {"N", "D", "G", "P", *_BITS}
        if self.law.form.target == "delta":
            return not names
        levels = {level for v in self.law.form.variables for level in v.levels}
        bits = {"P", *_BITS} & set(self.variables)
        return (
            self.law.form.target == "loss"
            and not names
            and bool(bits)
            and (not levels or bool(levels & {*_UNQUANTIZED}))
        )

    def is_baseline(self) -> bool:
        """Whether the law tells the loss without quantization from N and D alone."""
        return self.law.form.target == "loss" and set(self.variables) == {"N", "D"}

    def _own(self, name: str, recipe: Recipe) -> Any:
        """A variable that tells how something is quantized."""
        if name in _BITS:
            spec: QuantSpec | None = getattr(recipe, _BITS[name])
            return _WHOLE if spec is None else float(spec.num_bits)
        if name != "P":
            raise PlanError(f"law {self.label} needs {name}, which a plan does not know")
        spec = recipe.weight if recipe.weight is not None else recipe.input
        if spec is None:
            raise PlanError(f"law {self.label} needs bits; {recipe} quantizes neither weights nor inputs")
        levels = next(v.levels for v in self.law.form.variables if v.name == "P")
        if not levels:
            return float(spec.num_bits)
        level = str(spec.num_bits) if spec.type == "int" else _LEVELS.get(spec.format, spec.format)
        if level not in levels:
            raise PlanError(f"law {self.label} has levels {', '.join(levels)}; {recipe} is {level}")
        return level

    def _unquantized(self, point: Mapping[str, Any]) -> dict[str, Any] | None:
        """Of a law of losses the same point without quantization; None for a law of deltas and a baseline."""
        if self.law.form.target == "delta" or self.is_baseline():
            return None
        rest = dict(point)
        for variable in self.law.form.variables:
            if variable.name in ("P", *_BITS):
                found = [level for level in _UNQUANTIZED if level in variable.levels]
                rest[variable.name] = found[0] if variable.levels else _WHOLE
        return rest

    def _size(self, architecture: Architecture) -> int:
        if self.counts != "total":
            return architecture.N
        if architecture.is_typical:
            raise PlanError(
                f"law {self.label} counts embeddings in N and a plan by size does not: give the "
                "config.json of the model, which tells both counts"
            )
        return architecture.N_total

    def _printed_sd(self) -> float | None:
        error = self.law.diagnostics.get("mean_relative_error_as_printed")
        return _ALIKE * error if isinstance(error, (int, float)) and 0 < error < 1 else None

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(int(self.law.law_id.removeprefix("sha256:")[:16], 16))


def group_length(architecture: Architecture, recipe: Recipe) -> float:
    """G of a recipe: the mean over its quantized layers, weighted by their parameters, as in every record.

    Of the weights, or of the inputs where weights are not quantized.

    Raises:
        PlanError: Nothing is quantized, or a tensor has one scale.
    """
    operand = "input" if recipe.weight is None else "weight"
    weighted = total = 0
    for matrix in architecture.matrices:
        spec = recipe.spec_for(f"layers.0.{matrix.name}", operand, matrix.role)
        if spec is None:
            continue
        size = matrix.inputs * matrix.outputs
        try:
            weighted += spec.group_length(matrix.inputs) * size
        except SpecError as error:
            raise PlanError(f"{recipe}: {error}") from error
        total += size
    if not total:
        raise PlanError(f"{recipe} quantizes no linear layer: it has no G")
    return weighted / total
