"""Records to rows: the observations of a study, and their export. No torch."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from qscale import bounded
from qscale.errors import ConfigError, SpecError, StoreError
from qscale.formats import QuantSpec, Recipe
from qscale.formats.recipe import without_span
from qscale.records import Record, RecordVersionError
from qscale.sweep import files, strangers
from qscale.sweep.store import Damaged, Store, quiet
from qscale.sweep.words import plural
from qscale.training import paths
from qscale.training.config import RunConfig

#: Columns and their types; any but a name may be missing in a row.
COLUMNS: dict[str, type] = {
    "run_id": str,
    "ladder": str,
    "family": str,
    "corpus": str,
    "tokenizer": str,
    "mode": str,
    "recipe": str,
    "method": str,
    "seed": int,
    "N": int,
    "N_total": int,
    "D": int,
    "G": float,
    "G_weight": float,
    "G_input": float,
    "P": int,
    "r": float,
    "r_measured": float,
    "relmse_output": float,
    "bits_per_weight": float,
    "bits_per_kv": float,
    "finetune_fraction": float,
    "delta": float,
    "delta_se": float,
    "loss": float,
    "loss_se": float,
    "baseline_loss": float,
    "baseline_run_id": str,
    "bits_per_byte": float,
    "diverged": bool,
    "epochs": float,
    "eval_tokens": int,
    "tokens_per_second": float,
    "wall_seconds": float,
}
#: Rows of Parquet that are held in memory at a time.
_ROW_GROUP = 1024


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
    return list(rows(path, baselines=baselines, say=say))


def rows(
    path: Path | str, *, baselines: bool = False, say: Callable[[str], None] = quiet
) -> Iterator[dict[str, Any]]:
    """As :func:`observations`, one row at a time, with one record in memory however many there are.

    What there is to say of runs to come and of records that do not belong is said behind the last row.
    """
    store = Store(path, say)
    wanted = store.runs()
    losses: dict[str, float | None] = {}  # of the baselines that were met
    damaged = Damaged(store)
    done = quantized = 0

    def read(run_id: str) -> Record | None:
        try:
            found = store.read(run_id)
        except RecordVersionError:
            raise
        except StoreError as error:
            damaged.note(run_id, error)
            return None
        return None if found is None else found[0]

    for run in wanted:
        met = run.run_id in losses and not baselines
        record = None if met else read(run.run_id)
        if run.recipe is None and not met:
            losses[run.run_id] = None if record is None else record.loss
        if run.recipe is not None:
            quantized += 1
            done += record is not None
        if record is None or (run.recipe is None and not baselines):
            continue
        baseline = record.baseline_run_id
        if baseline is not None and baseline not in losses:
            other = read(baseline)
            losses[baseline] = None if other is None else other.loss
        yield _row(record, run, losses.get(baseline or ""))
    damaged.end()
    others = store.records(besides={run.run_id for run in wanted})
    for line in strangers.explain((record.config for record in others), wanted).lines:
        say(line)
    if done < quantized:
        say(f"{done} of {plural(quantized, 'quantized run')} {'is' if done == 1 else 'are'} done")


def _row(record: Record, run: RunConfig, baseline_loss: float | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        # Runs that share a baseline share its noise: scratch recipes too, whose trunks are their own.
        "ladder": run.baseline().trunk_id,
        "family": run.model.family,
        "corpus": run.corpus,
        "tokenizer": run.tokenizer,
        "recipe": run.recipe,
        "seed": run.init_seed,
        "baseline_loss": baseline_loss,
        "finetune_fraction": run.finetune_fraction,
        "P": None if run.recipe is None else _weight_bits(run.recipe),
        "method": run.method or ("rtn" if run.mode == "ptq" else None),
        "r_measured": measured_error(record),
        "r": None if run.recipe is None else rounding_error(run.recipe, record),
    }
    return {name: values[name] if name in values else getattr(record, name) for name in COLUMNS}


@lru_cache(maxsize=1024)
def _weight_bits(recipe: str) -> int | None:
    """Bits of a weight's code; None where weights are not quantized."""
    weight = Recipe.parse(recipe).weight
    return None if weight is None else weight.num_bits


def rounding_error(recipe: str, record: Record) -> float | None:
    """The relative error of a linear layer's output, for weights and inputs of independent normal numbers.

    What the formats do to such numbers (:func:`qscale.formats.relmse`), not what they did to the tensors of
    the run. None where layers differ, scales are not those of absmax, or a format's error is not known.
    """
    return _error_of(recipe, record.G_weight, record.G_input)


@lru_cache(maxsize=1024)
def _error_of(recipe: str, weight_group: float | None, input_group: float | None) -> float | None:
    parsed = Recipe.parse(recipe)
    if parsed.is_empty or parsed.overrides or parsed.kv or parsed.qkr or parsed.keep:
        return None
    if parsed.quantizer != "absmax":
        return None
    try:
        errors = [_relmse(parsed.weight, weight_group), _relmse(parsed.input, input_group)]
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


def export(rows: Iterable[Mapping[str, Any]], out: Path) -> int:
    """Write rows to ``out`` as they come, CSV or Parquet by its ending; returns how many.

    The file appears whole or not at all.

    Raises:
        ConfigError: Another ending.
        StoreError: pyarrow is missing, or the file cannot be written.
    """
    check_name(out)
    with files.replacing(out) as temporary:
        return (_write_csv if out.suffix == ".csv" else _write_parquet)(rows, temporary)


def check_name(out: Path) -> None:
    """Make sure that a table can be written to a file of this name.

    Raises:
        ConfigError: Another ending.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"cannot export to {out.name}: end the name with .csv or .parquet")


def _write_csv(rows: Iterable[Mapping[str, Any]], out: Path) -> int:
    count = 0
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def _write_parquet(rows: Iterable[Mapping[str, Any]], out: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise StoreError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or export to .csv"
        ) from error
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    count = 0
    with parquet.ParquetWriter(out, schema) as writer:
        rows = iter(rows)
        while part := list(islice(rows, _ROW_GROUP)):
            columns = {name: [row[name] for row in part] for name in COLUMNS}
            writer.write_table(pyarrow.table(columns, schema=schema))
            count += len(part)
    return count


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
        text = bounded.read_text(paths.diagnostics(folder), bounded.DIAGNOSTICS_BYTES)
        rows = [bounded.loads(line) for line in text.splitlines()]
        last = max(row["step"] for row in rows)
        return [row for row in rows if row["step"] == last]
    except (OSError, ValueError, KeyError, TypeError):
        return []
