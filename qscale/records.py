"""The record of a finished run: what it was, what it measured, what it ran on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any

from qscale import bounded
from qscale.errors import StoreError

SCHEMA_VERSION = 1


class RecordVersionError(StoreError):
    """A record that another version of qscale wrote: it is not damaged, and must not be made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What ``record.json`` holds. A run is done exactly when this can be read back.

    Losses are in nats per token. ``delta`` is loss minus the baseline's on the same sequences, and
    ``delta_se`` its standard error from the paired per-sequence differences.

    Raises:
        StoreError: A field is missing, unknown, of the wrong type or not finite.
    """

    run_id: str
    config: Mapping[str, Any]  #: ``RunConfig.to_json()``
    mode: str
    N: int  #: non-embedding parameters
    N_total: int  #: all parameters
    D: int  #: tokens seen
    epochs: float  #: tokens seen over tokens of the training split
    #: elements per scale in linear layers; None where weight and input differ, or no layer is quantized
    G: float | None
    G_weight: float | None
    G_input: float | None
    loss: float | None  #: None where the run diverged
    loss_se: float | None
    bits_per_byte: float | None
    eval_tokens: int
    diverged: bool
    diverged_step: int | None = None
    wall_seconds: float
    tokens_per_second: float
    peak_memory_bytes: int  #: of the worker process until now, not of this run alone
    versions: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)
    baseline_run_id: str | None = None
    delta: float | None = None
    delta_se: float | None = None
    relmse_weight: float | None = None  #: E[(q - w)^2] / E[w^2], mean over quantized weights at the end
    relmse_input: float | None = None  #: of the inputs, on held-out sequences
    relmse_output: float | None = None  #: of layers' outputs, mean over weights, after a method
    relmse_output_nearest: float | None = None  #: had the method rounded to nearest
    #: of the layers quantized, scales and all else that a method keeps; 16 where it quantizes none
    bits_per_weight: float | None = None
    bits_per_kv: float | None = None  #: of an element of keys and values, where a method quantizes those
    eval_losses_sha256: str | None = None  #: of the values in ``eval_losses.npy``
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name, value in zip(_NUMBERS, _numbers(self), strict=True):
            if not (type(value) in (float, int) and -_LARGEST < value < _LARGEST) and (
                value is not None or name in _MEASURED
            ):
                raise StoreError(f"record of run {self._name}: {name}={_short(value)} is not a finite number")
        for name, value in zip(_COUNTS, _counts(self), strict=True):
            if type(value) is not int or not 0 <= value < _MOST:
                raise StoreError(f"record of run {self._name}: {name}={_short(value)} is not a count")
        for name, kind in _KINDS.items():
            if not isinstance(value := getattr(self, name), kind):
                raise StoreError(f"record of run {self._name}: {name}={_short(value)} is no {kind.__name__}")
        for name in ("run_id", "baseline_run_id"):
            value = getattr(self, name)
            if not bounded.is_id(value) and (value is not None or name == "run_id"):
                raise StoreError(f"record of run {self._name}: {name}={_short(value)} is not 16 hex digits")
        for name in ("loss", "delta"):
            if (getattr(self, name) is None) != (getattr(self, f"{name}_se") is None):
                raise StoreError(f"record of run {self._name}: {name} without {name}_se, or the other way")
        step = self.diverged_step
        if step is not None and (type(step) is not int or not 0 <= step < _MOST):
            raise StoreError(f"record of run {self._name}: diverged_step={_short(step)} is not a count")
        if not self.diverged and self.loss is None:
            raise StoreError(f"record of run {self.run_id}: no loss, and not marked as diverged")

    @property
    def _name(self) -> str:
        """The run for a message; what stands there may be anything."""
        return self.run_id if bounded.is_id(self.run_id) else _short(self.run_id)

    def dumps(self) -> str:
        """Strict JSON text, one field a line; the last is the sha256 of all that is before it."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False).removesuffix("\n}")
        return f'{text},\n "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'

    @classmethod
    def loads(cls, text: str) -> Record:
        """Read a record back from its JSON text.

        Raises:
            RecordVersionError: Another version of qscale wrote it.
            StoreError: It is damaged, or something else.
        """
        try:
            data = bounded.loads(text)
        except ValueError as error:
            raise StoreError(f"not JSON: {error}") from error
        if not isinstance(data, dict):
            raise StoreError(f"a record is a JSON object, not {type(data).__name__}")
        if data.pop("sha256", None) != _digest(text):
            raise StoreError("its sha256 is not the one that was written with it")
        version = data.get("schema_version")
        if type(version) is int and version != SCHEMA_VERSION:
            raise RecordVersionError(
                f"record of run {_short(data.get('run_id'))}: schema version {_short(version)}, this qscale "
                f"reads {SCHEMA_VERSION}; use the qscale that wrote it, or name a new folder"
            )
        try:
            return cls(**data)
        except TypeError as error:
            raise StoreError(f"record fields do not match: {bounded.one_line(error)}") from error


_NUMBERS = (
    "loss",
    "loss_se",
    "delta",
    "delta_se",
    "bits_per_byte",
    "wall_seconds",
    "tokens_per_second",
    "epochs",
    "G",
    "G_weight",
    "G_input",
    "relmse_weight",
    "relmse_input",
    "relmse_output",
    "relmse_output_nearest",
    "bits_per_weight",
    "bits_per_kv",
)
#: Of those the ones that every run has.
_MEASURED = ("wall_seconds", "tokens_per_second", "epochs")
_COUNTS = ("N", "N_total", "D", "eval_tokens", "peak_memory_bytes")
_KINDS: dict[str, type] = {
    "mode": str,
    "diverged": bool,
    "config": Mapping,
    "versions": Mapping,
    "host": Mapping,
}
_LARGEST, _MOST = 1e300, 2**63
_LAST = re.compile(r',\n "sha256": "[0-9a-f]{64}"\n}\n\Z')
_numbers, _counts = attrgetter(*_NUMBERS), attrgetter(*_COUNTS)


def _digest(text: str) -> str | None:
    """The sha256 of what stands before the last field, which must be laid out as we write it."""
    match = _LAST.search(text)
    return None if match is None else hashlib.sha256(text[: match.start()].encode()).hexdigest()


def _short(value: object) -> str:
    """A value of a stranger's for a message: an integer may have a thousand digits."""
    return repr(value) if isinstance(value, float) else bounded.one_line(repr(value), 60)
