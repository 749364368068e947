"""The record of a finished run: what it was, what it measured, what it ran on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

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
    G: float | None  #: elements per scale; None where weight and input differ or nothing is quantized
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
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in (
            "loss",
            "loss_se",
            "delta",
            "delta_se",
            "wall_seconds",
            "tokens_per_second",
            "epochs",
            "relmse_weight",
            "relmse_input",
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, float)) or not math.isfinite(value)):
                raise StoreError(f"record of run {self.run_id}: {name}={value!r} is not a finite number")
        for name in ("N", "N_total", "D", "eval_tokens"):
            if type(getattr(self, name)) is not int:
                raise StoreError(
                    f"record of run {self.run_id}: {name}={getattr(self, name)!r} is not a count"
                )
        if not self.diverged and self.loss is None:
            raise StoreError(f"record of run {self.run_id}: no loss, and not marked as diverged")

    def dumps(self) -> str:
        """Strict JSON text, one field a line."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def loads(cls, text: str) -> Record:
        """Read a record back from its JSON text."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise StoreError(f"not JSON: {error}") from error
        if not isinstance(data, dict):
            raise StoreError(f"a record is a JSON object, not {type(data).__name__}")
        version = data.get("schema_version")
        if type(version) is int and version != SCHEMA_VERSION:
            raise RecordVersionError(
                f"record of run {data.get('run_id')}: schema version {version}, this qscale reads "
                f"{SCHEMA_VERSION}; use the qscale that wrote it, or name a new folder"
            )
        try:
            return cls(**data)
        except TypeError as error:
            raise StoreError(f"record fields do not match: {error}") from error
