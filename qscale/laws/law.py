"""A law: a form with its constants, what they were fitted on, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from qscale.errors import LawError
from qscale.laws import forms, lawfile, uncertainty
from qscale.laws.design import fitted_names, reference_names
from qscale.laws.forms import FloatArray, Form, Term

_MOST_APART = 1e-6  # relative, of one constant written twice
_MOST_SCATTER = 100.0  # relative: beyond, a number of a stranger's file is no scatter

Band = Literal["mean", "run"]

#: The states in which a law may be used.
USABLE = ("converged", "published")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The parameters at a point inside the data, where they are nearly uncorrelated."""

    at: dict[str, float]  #: N0, D0, G0
    parameters: dict[str, float | None]  #: delta0 and the exponents; None: not identified
    intervals: dict[str, tuple[float, float]]
    level: float  #: of the intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Draws of the parameters at the reference point (or raw, for a form without axes)."""

    method: str
    columns: tuple[str, ...]
    values: FloatArray  #: ``(draws, columns)``


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Law:
    """A fitted or published law: predictions, bands, a summary and a file.

    Get one from :func:`qscale.laws.fit` or :func:`qscale.laws.load`. Two laws are equal when their ids are.

    Example:
        >>> from qscale import laws
        >>> law = laws.load("chen2025/w4a4")
        >>> round(law.predict(N=595e6, D=100e9, G=128), 6)
        0.057279
        >>> round(law.outside(N=7e9, D=2e12, G=128)["N"], 2)
        11.76
    """

    form: Form
    status: str  #: ``converged``, ``published``, or why the law must not be used
    parameters: dict[str, float | None]  #: raw constants, in the units of the form; None: not identified
    box: dict[str, tuple[float, float]]  #: lowest and highest value of each variable that was fitted
    name: str | None = None
    reference: Reference | None = None
    fixed: dict[str, float] = field(default_factory=dict)
    conventions: dict[str, str] = field(default_factory=dict)  #: how N, D and G are counted
    quantization: dict[str, str | None] = field(default_factory=dict)  #: mode, recipe, dialect, ...
    data: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    holdout: dict[str, Any] = field(default_factory=dict)
    draws_table: Draws | None = None
    checklist: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    citation: dict[str, str | None] | None = None
    licence: str | None = None
    code_version: str | None = None

    def __post_init__(self) -> None:
        names = [v.name for v in self.form.variables if not v.levels]
        wanted_keys: list[tuple[str, Mapping[str, Any], list[str]]] = [
            ("parameters", self.parameters, list(self.form.names)),
            ("box", {n: v for n, v in self.box.items() if n not in self.form.by}, names),
        ]
        if self.reference is not None:
            wanted_keys.append(("reference.at", self.reference.at, names))
            wanted_keys.append(
                ("reference.parameters", self.reference.parameters, list(self._draw_columns()))
            )
        for what, found, wanted in wanted_keys:
            if set(found) != set(wanted):
                raise LawError(
                    f"law of form {self.form.id!r}: {what} are {', '.join(sorted(found)) or 'none'}; "
                    f"wanted {', '.join(wanted)}"
                )
        if any(low <= 0 for low, _ in self.box.values()):
            raise LawError(f"law of form {self.form.id!r}: box {self.box} has an end that is not positive")
        for known in (self.parameters, {} if self.reference is None else self.reference.parameters):
            if self.usable and None in known.values():
                raise LawError(f"law with status {self.status!r} lacks a parameter: {known}")
        if self.draws_table is not None and set(self.draws_table.columns) != set(self._draw_columns()):
            raise LawError(f"law of form {self.form.id!r}: draws have columns {self.draws_table.columns}")
        _check_values(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Law) and self.law_id == other.law_id

    def __hash__(self) -> int:
        return hash(self.law_id)

    def __repr__(self) -> str:
        return f"<Law {self.name or self.law_id[:15]}: {self.form.formula}; {self.status}>"

    @property
    def usable(self) -> bool:
        """Whether the constants may be used at all."""
        return self.status in USABLE

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the fit, each a code, a colon and what it is about."""
        found = self.diagnostics.get("warnings")
        return tuple(str(text) for text in found) if isinstance(found, list) else ()

    @property
    def law_id(self) -> str:
        """sha256 of the canonical content of the law file."""
        return lawfile.law_id(self._content())

    def predict(self, **variables: Any) -> Any:
        """The target (delta or loss), in nats per token: a float for numbers, an array for arrays.

        Args:
            variables: Those of the form, such as ``N=7e9, D=2e12, G=128``; arrays are broadcast.

        Raises:
            LawError: The law is not identified, or a variable is missing, unknown or outside the domain.
        """
        params = self._known()
        return _unwrap(self.form.value(params, variables))

    def draws(self, n: int | None = None, **variables: Any) -> FloatArray:
        """The target under the first ``n`` stored draws: ``(n, *shape)``, the same each time.

        The draws of two variables or targets go together: subtract them to compare two choices.

        Raises:
            LawError: The law has no draws, or fewer than ``n``.
        """
        self._known()
        table = self.draws_table
        if table is None:
            why = "its source prints none" if self.status == "published" else "it was stored without draws"
            raise LawError(f"law {self.name or self.law_id[:15]!r} has no interval: {why}")
        if n is not None and not 1 <= n <= len(table.values):
            raise LawError(f"n={n} draws; the law holds {len(table.values)}")
        column = dict(zip(table.columns, table.values[:n].T, strict=True))
        x = self.form.inputs(variables)
        shape = next(iter(x.values())).shape
        column = {name: values.reshape(-1, *(1 for _ in shape)) for name, values in column.items()}
        if not self.form.terms:
            return np.stack([self.form.value({k: float(v.flat[i]) for k, v in column.items()}, variables)
                             for i in range(len(table.values[:n]))])  # fmt: skip
        assert self.reference is not None
        at_reference = dict(zip(fitted_names(self.form), reference_names(self.form), strict=True))
        out = np.zeros((len(table.values[:n]), *shape))
        for term in self.form.terms:
            part = np.zeros_like(out)
            for name, here in term.scales(x).items():
                part = np.where(here, column[at_reference[name]], part)
            for axis in term.axes:
                at = float(axis.base(np.float64(self.reference.at[axis.variable])))
                part = part * (axis.base(x[axis.variable]) / at) ** (axis.sign * column[axis.parameter])
            out = out + part
        return out

    def interval(self, level: float = 0.9, kind: Band = "mean", **variables: Any) -> tuple[Any, Any]:
        """Equal-tailed interval at a point, from the stored draws: ``(low, high)``.

        ``mean`` is the band of the mean law: it tells how well the constants are known. ``run`` is the band
        for one new run, which also scatters around the law: the draws times a lognormal scatter of
        :attr:`run_sd`, exactly integrated, so it is the same each time. Both take the form to be true:
        outside the fitted box that is an assumption (:meth:`outside`).

        Raises:
            LawError: The law has no draws, the level is not between 0 and 1, or, for a run, the law does not
                know its scatter.
        """
        if not 0 < level < 1:
            raise LawError(f"level={level}: an interval's level is between 0 and 1, such as 0.9")
        if kind not in get_args(Band):
            raise LawError(f"kind={kind!r}: a band is of the {' or of a '.join(get_args(Band))}")
        draws, ends = self.draws(**variables), ((1 - level) / 2, (1 + level) / 2)
        if kind == "mean":
            low, high = np.quantile(draws, ends, axis=0)
        elif np.all(draws > 0):
            low, high = (uncertainty.scattered_quantile(draws, self.run_sd, end) for end in ends)
        else:
            raise LawError("the law has draws that are not positive: a relative scatter has no sense there")
        return _unwrap(low), _unwrap(high)

    @property
    def run_sd(self) -> float:
        """Relative standard deviation of a run around the law: of repeated seeds, else of the residuals.

        Where cells have effects, those of the residuals and of the effects together.

        Raises:
            LawError: The law does not know it.
        """
        for name in ("seed_sd", "scatter_sd"):
            value = self.diagnostics.get(name)
            if isinstance(value, (int, float)) and 0 < value < _MOST_SCATTER:
                cell = self.diagnostics.get("cell_sd") if name == "scatter_sd" else None
                return math.hypot(value, cell) if isinstance(cell, (int, float)) else float(value)
        raise LawError(
            f"law {self.name or self.law_id[:15]!r} does not say how runs scatter around it: its diagnostics "
            "have neither seed_sd nor scatter_sd"
        )

    def outside(self, **variables: Any) -> dict[str, Any]:
        """How many times outside the fitted box each variable lies; 1.0 means inside.

        ``N / largest N`` above the box, ``smallest N / N`` below it.
        """
        x = self.form.inputs(variables)
        out = {}
        for name, values in x.items():
            if name in self.form.by:
                continue
            low, high = map(float, self.box[name])
            below = np.divide(low, values, out=np.full(values.shape, np.inf), where=values > 0)
            out[name] = _unwrap(np.maximum(1.0, np.maximum(values / high, below)))
        return out

    def summary(self) -> str:
        """Printable text: status, constants with intervals, errors, box; no constants that mean nothing."""
        from qscale.laws.summary import summarize

        return summarize(self)

    def to_json(self, path: str | Path) -> None:
        """Write the law file, whole or not at all.

        Raises:
            LawError: The file cannot be written.
        """
        lawfile.write(Path(path), self.dumps())

    def dumps(self) -> str:
        """The text of the law file: strict JSON."""
        content = self._content()
        return lawfile.dumps({"schema": content.pop("schema"), "law_id": self.law_id, **content})

    @classmethod
    def loads(cls, text: str) -> Law:
        """The inverse of :meth:`dumps`.

        Raises:
            LawError: The text is not a law file; the key at fault is named.
        """
        return _from_content(lawfile.parse(text))

    @classmethod
    def from_json(cls, path: str | Path) -> Law:
        """The inverse of :meth:`to_json`.

        Raises:
            LawError: The file cannot be read or is not a law file; it is named.
        """
        text = lawfile.read(Path(path))
        try:
            return cls.loads(text)
        except LawError as err:
            raise LawError(f"{path}: {err}") from err

    def _known(self) -> dict[str, float]:
        if not self.usable:
            raise LawError(f"this law cannot be evaluated: {self.status}")
        return {name: float(value) for name, value in self.parameters.items() if value is not None}

    def _draw_columns(self) -> tuple[str, ...]:
        return reference_names(self.form) if self.form.terms else self.form.names

    def _content(self) -> dict[str, Any]:
        """The law file's fields, all but the id."""
        ref, draws = self.reference, self.draws_table
        return {
            "schema": lawfile.SCHEMA,
            "name": self.name,
            "form": self.form.id,
            "status": self.status,
            "target": {"quantity": self.form.target, "unit": self.form.unit},
            "parameters": dict(self.parameters),
            "reference": None
            if ref is None
            else {
                "at": dict(ref.at),
                "parameters": dict(ref.parameters),
                "intervals": {key: list(pair) for key, pair in ref.intervals.items()},
                "level": ref.level,
            },
            "fixed": dict(self.fixed),
            "units": {v.name: v.unit for v in self.form.variables},
            "conventions": dict(self.conventions),
            "quantization": {key: self.quantization.get(key) for key in _QUANTIZATION},
            "box": {key: list(pair) for key, pair in self.box.items()},
            "data": dict(self.data),
            "fit": dict(self.fit),
            "diagnostics": dict(self.diagnostics),
            "holdout": dict(self.holdout),
            "draws": None
            if draws is None
            else {"method": draws.method, "columns": list(draws.columns), "values": draws.values.tolist()},
            "checklist": {key: self.checklist.get(key) for key in lawfile.CHECKLIST},
            "notes": list(self.notes),
            "citation": self.citation,
            "licence": self.licence,
            "code_version": self.code_version,
        }


_QUANTIZATION = ("mode", "recipe", "dialect", "method", "granularity")


def _check_values(law: Law) -> None:
    """What a slip of the hand in a law file breaks: signs, and the constants being written down twice."""
    form, raw, ref = law.form, law.parameters, law.reference
    scales = [(term, name) for term in form.terms for name in term.scale_names]
    for _, name in scales:
        if len(form.terms) == 1 or raw[name] != 0:  # one of several terms may be none
            _check_positive(name, raw[name])
    for name, value in law.fixed.items():
        if name not in raw or not _alike(raw[name], value):
            raise LawError(f"law: {name} is fixed at {value:g}, but parameters.{name} is {raw.get(name)}")
    if ref is None:
        return
    at_reference = dict(zip(fitted_names(form), reference_names(form), strict=True)) if form.terms else {}
    if form.terms and not form.by:
        form.inputs(ref.at)
    for term, name in scales:
        scale = at_reference[name]
        _check_positive(f"reference.parameters.{scale}", ref.parameters[scale])
        if law.draws_table is not None:
            column = law.draws_table.columns.index(scale)
            _check_positive(f"draws of {scale}", float(law.draws_table.values[:, column].min()))
        expected = _log_raw(law, term, ref, scale)
        if expected is not None and not abs(_log(raw[name]) - expected) <= _MOST_APART:
            raise _disagree(name, raw[name], f"exp({expected:.9g})")


def _log_raw(law: Law, term: Term, ref: Reference, scale: str) -> float | None:
    """The logarithm of a raw scale, from the parameters at the reference point; None where one is unknown."""
    at_point = ref.parameters[scale]
    expected = None if at_point is None else _log(at_point)
    for axis in term.axes:
        base = float(axis.base(np.float64(ref.at[axis.variable])))
        if not base > 0:
            raise LawError(
                f"law: reference.at.{axis.variable} is {ref.at[axis.variable]:g}: not inside the form"
            )
        exponent = ref.parameters[axis.parameter]
        if not _alike(law.parameters[axis.parameter], exponent):
            raise _disagree(axis.parameter, law.parameters[axis.parameter], exponent)
        if expected is None or exponent is None:
            return None
        expected -= axis.sign * exponent * float(np.log(base))
    return expected


def _log(value: float | None) -> float:
    """Of a scale, also one that is none (0) or unknown; of integers beyond NumPy's too."""
    return math.log(value) if value else -math.inf


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise LawError(f"law: {name} is {value:g}; a scale is positive")


def _alike(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return abs(first - second) <= _MOST_APART * max(abs(first), abs(second))


def _disagree(name: str, raw: float | None, other: float | str | None) -> LawError:
    return LawError(
        f"law: parameters.{name} is {raw}, but the parameters at the reference point give {other}: "
        "they are one law written twice; change both, or set reference and draws to null"
    )


def _from_content(content: Mapping[str, Any]) -> Law:
    """A law from the checked content of its file."""
    form = forms.get(content["form"])
    units = {v.name: v.unit for v in form.variables}
    if content["units"] != units:
        raise LawError(f"law file: units are {content['units']}; form {form.id!r} has {units}")
    ref, draws = content["reference"], content["draws"]
    if ref is not None:
        intervals = {key: (low, high) for key, (low, high) in ref["intervals"].items()}
        ref = Reference(**{**ref, "intervals": intervals})
    elif form.terms and draws is not None:
        raise LawError("law file: draws are at a reference point, but reference is null")
    if draws is not None:
        values = np.array(draws["values"], dtype=np.float64)
        draws = Draws(method=draws["method"], columns=tuple(draws["columns"]), values=values)
    skip = {"schema", "law_id", "target", "units", "form", "draws", "reference", "notes", "box"}
    return Law(
        form=form,
        reference=ref,
        draws_table=draws,
        notes=tuple(content["notes"]),
        box={key: (low, high) for key, (low, high) in content["box"].items()},
        **{key: value for key, value in content.items() if key not in skip},
    )


def _unwrap(values: FloatArray) -> Any:
    return float(values) if np.ndim(values) == 0 else values
