"""The law file: strict JSON, every field checked, its id a hash of its content, written in one step."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from qscale.errors import LawError

SCHEMA = "qscale-law/1"
MOST_BYTES = 16 * 2**20  # a stranger's file cannot fill the memory
MOST_DRAWS = 10_000
_DEEPEST = 6
_LARGEST = sys.float_info.max  # also holds back integers that no float can hold

#: A list of numbers over several lines; no string can match, for JSON strings hold no line break.
_NUMBERS = re.compile(r"\[\n[-+.,eE\d\snul]*\]")

#: The reporting checklist of (Mis)Fitting (arXiv:2502.18969): what a reader needs to judge or repeat a law.
CHECKLIST = (
    "form",
    "variables",
    "parameters_to_fit",
    "principles",
    "assumptions_and_alternatives",
    "number_of_models",
    "model_sizes",
    "data_per_model",
    "counting_of_N_and_D",
    "counting_code",
    "hyperparameter_choice",
    "other_choices",
    "training_code_open",
    "checkpoints_public",
    "checkpoints_per_model",
    "metric_and_data",
    "metric_modified",
    "metric_code",
    "objective",
    "optimizer",
    "optimizer_settings",
    "initialization",
    "points_used",
    "validity",
)

Content = dict[str, Any]
_Check = Callable[[Any, str], None]


def _fail(where: str, value: Any, wanted: str) -> LawError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return LawError(f"law file: {where} is {shown}; wanted {wanted}")


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str) or not value:
        raise _fail(where, value, "a text")


def _number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise _fail(where, value, "a finite number")


def _plain(value: Any, where: str, depth: int = 0) -> None:
    """Anything JSON can say, numbers finite and nesting bounded."""
    if depth > _DEEPEST:
        raise LawError(f"law file: {where} is nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _text(key, f"a key of {where}")
            _plain(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _plain(item, f"{where}[{i}]", depth + 1)
    elif not (value is None or isinstance(value, (str, bool))):
        _number(value, where)


def _free(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise _fail(where, value, "an object")
    _plain(value, where)


def _optional(check: _Check) -> _Check:
    return lambda value, where: None if value is None else check(value, where)


def _mapping(check: _Check) -> _Check:
    def run(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise _fail(where, value, "an object")
        for key, item in value.items():
            check(item, f"{where}.{key}")

    return run


def _listing(check: _Check) -> _Check:
    def run(value: Any, where: str) -> None:
        if not isinstance(value, (list, tuple)):
            raise _fail(where, value, "a list")
        for i, item in enumerate(value):
            check(item, f"{where}[{i}]")

    return run


def _range(value: Any, where: str) -> None:
    _listing(_number)(value, where)
    if len(value) != 2 or value[0] > value[1]:
        raise _fail(where, value, "[low, high]")


def _record(fields: Mapping[str, _Check]) -> _Check:
    """An object with exactly these keys."""

    def run(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise _fail(where, value, "an object")
        for key in value:
            if key not in fields:
                nearest = get_close_matches(str(key), fields, n=1)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
                raise LawError(f"law file: unknown key {key!r} in {where}{hint}")
        for key, check in fields.items():
            if key not in value:
                raise LawError(f"law file: {where} has no key {key!r}")
            check(value[key], f"{where}.{key}" if where != "the file" else key)

    return run


def _schema(value: Any, where: str) -> None:
    if value != SCHEMA:
        raise _fail(where, value, f"{SCHEMA!r}, the version that this qscale reads")


def _draws(value: Any, where: str) -> None:
    _record({"method": _text, "columns": _listing(_text), "values": _listing(_listing(_number))})(
        value, where
    )
    if not 1 <= len(value["values"]) <= MOST_DRAWS:
        raise LawError(f"law file: {where} has {len(value['values'])} rows; wanted 1 to {MOST_DRAWS}")
    for i, row in enumerate(value["values"]):
        if len(row) != len(value["columns"]):
            raise _fail(f"{where}.values[{i}]", row, f"{len(value['columns'])} numbers")


_FILE = _record(
    {
        "schema": _schema,
        "law_id": _optional(_text),
        "name": _optional(_text),
        "form": _text,
        "status": _text,
        "target": _record({"quantity": _text, "unit": _text}),
        "parameters": _mapping(_optional(_number)),
        "reference": _optional(
            _record(
                {
                    "at": _mapping(_number),
                    "parameters": _mapping(_optional(_number)),
                    "intervals": _mapping(_range),
                    "level": _number,
                }
            )
        ),
        "fixed": _mapping(_number),
        "units": _mapping(_text),
        "conventions": _mapping(_text),
        "quantization": _record(
            {key: _optional(_text) for key in ("mode", "recipe", "dialect", "method", "granularity")}
        ),
        "box": _mapping(_range),
        "data": _free,
        "fit": _free,
        "diagnostics": _free,
        "holdout": _free,
        "draws": _optional(_draws),
        "checklist": _record(dict.fromkeys(CHECKLIST, _plain)),
        "notes": _listing(_text),
        "citation": _optional(_record({"text": _text, "url": _optional(_text)})),
        "licence": _optional(_text),
        "code_version": _optional(_text),
    }
)


def law_id(content: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of everything but the id: keys sorted, no spaces, no NaN."""
    rest = {key: value for key, value in content.items() if key != "law_id"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def check(content: Any) -> None:
    """Check every field of a law file's content.

    Raises:
        LawError: Names the first key that is missing, unknown or of the wrong kind, or says that the content
            is not the one that ``law_id`` was made from.
    """
    _FILE(content, "the file")
    if content["law_id"] is not None and content["law_id"] != law_id(content):
        raise LawError(
            "law file: law_id is not the hash of the content: the file was changed after it was written; "
            "set law_id to null to accept the change"
        )


def parse(text: str) -> Content:
    """Read and check the text of a law file. Nothing in it is evaluated."""
    if len(text) > MOST_BYTES:
        raise LawError(f"law file: {len(text)} characters; at most {MOST_BYTES} are read")
    try:
        content = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except LawError:
        raise
    except (ValueError, RecursionError) as err:  # ValueError also for integers of too many digits
        raise LawError(f"law file: not JSON: {err}") from err
    check(content)
    checked: Content = content
    return checked


def _no_constant(name: str) -> Any:
    raise LawError(f"law file: {name} is not a number that strict JSON has")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise LawError(f"law file: key {key!r} is given twice")
        out[key] = value
    return out


def dumps(content: Mapping[str, Any]) -> str:
    """The text of a law file: one line a field, one line a draw."""
    fields = []
    for key, value in content.items():
        if key == "draws" and value is not None:
            rows = ",\n      ".join(json.dumps(row, allow_nan=False) for row in value["values"])
            head = {k: v for k, v in value.items() if k != "values"}
            body = json.dumps(head, allow_nan=False)[:-1] + f', "values": [\n      {rows}\n    ]}}'
        else:
            body = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=2).replace("\n", "\n  ")
            body = _NUMBERS.sub(lambda found: " ".join(found[0].split()), body)
        fields.append(f"  {json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def read(path: Path) -> str:
    """The text of a law file, unless it is too large."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise LawError(f"{path}: {path.stat().st_size} bytes; at most {MOST_BYTES} are read")
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise LawError(f"{path} cannot be read: {err.strerror or err}") from err
    except UnicodeDecodeError as err:
        raise LawError(f"{path} cannot be read: {err}") from err


def write(path: Path, text: str) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as err:
        beside.unlink(missing_ok=True)
        # str(err) would name the file beside, which means nothing to the user
        raise LawError(f"{path} cannot be written: {err.strerror or err}") from err
