"""Records to rows: the observations of a study, and their export. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qscale.errors import ConfigError, SpecError, StoreError
from qscale.formats import QuantSpec, Recipe
from qscale.formats.recipe import without_span
from qscale.records import Record
from qscale.sweep import files
from qscale.sweep.store import Store, quiet
from qscale.sweep.words import plural
from qscale.training import paths
from qscale.training.config import RunConfig

COLUMNS = (
    "run_id",
    "ladder",
    "family",
    "corpus",
    "tokenizer",
    "mode",
    "recipe",
    "seed",
    "N",
    "N_total",
    "D",
    "G",
    "G_weight",
    "G_input",
    "r",
    "r_measured",
    "finetune_fraction",
    "delta",
    "delta_se",
    "loss",
    "loss_se",
    "baseline_loss",
    "baseline_run_id",
    "bits_per_byte",
    "diverged",
    "epochs",
    "eval_tokens",
    "tokens_per_second",
    "wall_seconds",
)


def observations(
    path: Path | str, *, baselines: bool = False, say: Callable[[str], None] = quiet
) -> list[dict[str, Any]]:
    """One row for each finished quantized run that the study asks for, ready for ``laws.fit``.

    A run that diverged has no ``loss`` and no ``delta``, and says so in ``diverged``.

    Args:
        path: A study folder.
        baselines: Also a row for each baseline, with no delta.
        say: Told in one line of runs still to come, of damaged records and of records that no longer
            belong to the study.

    Raises:
        StoreError: Not a study folder.
    """
    store = Store(path, say)
    wanted = {run.run_id: run for run in store.runs()}
    records = {record.run_id: record for record in store.records()}
    if strangers := len(records.keys() - wanted.keys()):
        do = "does" if strangers == 1 else "do"
        say(f"{plural(strangers, 'record')} {do} not belong to study.yaml as it is now: left out")
    quantized = [run_id for run_id, run in wanted.items() if run.recipe is not None]
    done = sum(run_id in records for run_id in quantized)
    if done < len(quantized):
        say(f"{done} of {plural(len(quantized), 'quantized run')} {'is' if done == 1 else 'are'} done")
    return [
        _row(records[run_id], run, records.get(records[run_id].baseline_run_id or ""))
        for run_id, run in wanted.items()
        if run_id in records and (baselines or run.recipe is not None)
    ]


def _row(record: Record, run: RunConfig, baseline: Record | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        # Runs that share a baseline share its noise: scratch recipes too, whose trunks are their own.
        "ladder": run.baseline().trunk_id,
        "family": run.model.family,
        "corpus": run.corpus,
        "tokenizer": run.tokenizer,
        "recipe": run.recipe,
        "seed": run.init_seed,
        "baseline_loss": None if baseline is None else baseline.loss,
        "finetune_fraction": run.finetune_fraction,
        "r_measured": measured_error(record),
        "r": None if run.recipe is None else rounding_error(run.recipe, record),
    }
    return {name: values[name] if name in values else getattr(record, name) for name in COLUMNS}


def rounding_error(recipe: str, record: Record) -> float | None:
    """The relative error of a linear layer's output, for weights and inputs of independent normal numbers.

    What the formats do to such numbers (:func:`qscale.formats.relmse`), not what they did to the tensors of
    the run. None where layers differ, scales are not those of absmax, or a format's error is not known.
    """
    parsed = Recipe.parse(recipe)
    if parsed.overrides or parsed.kv or parsed.qkr or parsed.keep or parsed.quantizer != "absmax":
        return None
    try:
        errors = [_relmse(parsed.weight, record.G_weight), _relmse(parsed.input, record.G_input)]
    except SpecError:
        return None
    weight, inputs = errors
    return weight + inputs + weight * inputs


def measured_error(record: Record) -> float | None:
    """As :func:`rounding_error`, from what quantization did to the tensors of the run at its end.

    None for a baseline, and for the records of runs that did not look.
    """
    errors = (record.relmse_weight, record.relmse_input)
    if errors == (None, None):
        return None
    weight, inputs = (error or 0.0 for error in errors)
    return weight + inputs + weight * inputs


def _relmse(spec: QuantSpec | None, group: float | None) -> float:
    if spec is None:
        return 0.0
    from qscale.formats import relmse  # with NumPy, which `status` does without

    whole = spec.strategy in ("channel", "token") and group is not None
    return relmse(spec, group_size=round(group) if whole and group else None)


def export(rows: list[dict[str, Any]], out: Path) -> None:
    """Write rows to ``out``: CSV or Parquet, by its ending.

    Raises:
        ConfigError: Another ending.
        StoreError: pyarrow is missing, or the file cannot be written.
    """
    check_name(out)
    try:
        if out.suffix == ".csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            files.write_whole(out, text.getvalue())
        else:
            _write_parquet(rows, out)
    except OSError as error:
        raise files.store_error("write", out, error) from error


def check_name(out: Path) -> None:
    """Make sure that a table can be written to a file of this name.

    Raises:
        ConfigError: Another ending.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"cannot export to {out.name}: end the name with .csv or .parquet")


def _write_parquet(rows: list[dict[str, Any]], out: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise StoreError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or export to .csv"
        ) from error
    table = pyarrow.table({name: [row[name] for row in rows] for name in COLUMNS})
    temporary = out.with_name(f".{out.name}.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, temporary)
    temporary.replace(out)


def layer_rows(
    path: Path | str, *, mode: str | None = None, recipe: str | None = None
) -> list[dict[str, Any]]:
    """What quantization did to each layer at the end of each run: one row a layer.

    Of runs of a study that are done, and always of the unquantized ones; with the run's N, D, seed, mode and
    recipe (``none`` for a baseline), and the fields of ``qscale.training.diagnostics.LayerDiagnostics``.

    Args:
        path: A study folder.
        mode: Only runs of this mode.
        recipe: Only runs of this recipe; ``w4a4`` whatever its group size.

    Raises:
        StoreError: Not a study folder.
    """
    store = Store(path)
    rows = []
    for run in store.runs():
        if run.recipe is not None and (
            mode not in (None, run.mode) or recipe not in (None, run.recipe, without_span(run.recipe))
        ):
            continue
        record = store.record(run.run_id)
        if record is None or record.diverged:
            continue
        of_run: dict[str, Any] = {"N": record.N, "D": record.D, "seed": run.init_seed, "mode": run.mode}
        of_run |= {"recipe": run.recipe or "none"}
        rows += [of_run | row for row in _last_layers(store.run_folder(run.run_id))]
    return rows


def _last_layers(folder: Path) -> list[dict[str, Any]]:
    """The diagnostics of the last step that are whole; none of runs that did not look."""
    try:
        lines = paths.diagnostics(folder).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        last = max(row["step"] for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [row for row in rows if row["step"] == last]
