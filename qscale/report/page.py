"""The report of a study as one HTML page that opens without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import qscale
from qscale import laws
from qscale.errors import QScaleError, StoreError
from qscale.laws import Law
from qscale.report import explorer, sources
from qscale.report.canvas import COLORS, DARK_COLORS
from qscale.report.sections import curves, decomposition, doubts, layers, methods, overview
from qscale.report.sections import law as law_sections
from qscale.report.sources import Fit, Source
from qscale.report.values import Value

_MOST_EXPLORED = 4  # of those in the explorer: each has its draws with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What was written."""

    path: Path
    bytes: int
    runs: int  #: quantized runs with a delta
    laws: int  #: usable laws that were fitted


def write(
    source: Path,
    out: Path,
    *,
    named: Mapping[str, Law] | None = None,
    form: str | None = None,
    objective: str | None = None,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Page:
    """Write the page of a study folder, or of a CSV or Parquet table.

    Args:
        source: The folder or the table.
        out: The file to write; it appears whole or not at all.
        named: Further laws for the explorer, by the name to show.
        form: The form to fit, by default ``qat-unified``, or ``qat-power`` where G does not vary.
        objective: Of the fits.
        mode: Only runs of this mode.
        recipe: Only runs of this recipe.
        method: Only runs of this method of quantization after training.
        columns: A table's own names of columns.

    Raises:
        StoreError: The source holds no study, or the page cannot be written.
        LawError: The table cannot be read.
        QScaleError: Jinja2 or Plotly is not installed.
    """
    found = sources.read(source, mode=mode, recipe=recipe, method=method, columns=columns)
    fits, left = sources.fit_groups(found, form, objective)
    told = gather(found, fits, left, objective=objective, mode=mode, recipe=recipe)
    text = render(found.name, told, explored(found, fits, named or {}))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.with_name(f".{out.name}.tmp")
        beside.write_text(text, encoding="utf-8")
        beside.replace(out)
    except OSError as error:
        raise StoreError(f"report {str(out)!r} cannot be written: {error}") from error
    usable = sum(fit.usable is not None for fit in fits)
    return Page(path=out, bytes=len(text.encode()), runs=len(found.measured), laws=usable)


def gather(
    found: Source,
    fits: list[Fit],
    left: int,
    *,
    objective: str | None = None,
    mode: str | None = None,
    recipe: str | None = None,
) -> list[Value]:
    """Every section as plain values, in the order of the page; the explorer comes behind the first."""
    return [
        overview.summary(found, fits, left),
        overview.coverage(found),
        law_sections.law(found, fits, left),
        doubts.residuals(fits),
        doubts.profiles(fits, objective),
        doubts.sensitivity(fits),
        methods.methods(found),
        decomposition.decomposition(found),
        layers.layers(found, mode=mode, recipe=recipe),
        curves.curves(found),
        overview.runs_table(found),
        doubts.checklist(fits),
        overview.environment(found),
    ]


def explored(found: Source, fits: list[Fit], named: Mapping[str, Law]) -> Value:
    """What the explorer computes from: the study's laws, those that were named, and published ones."""
    own = {f"this study: {fit.group.name}": fit.usable for fit in fits if fit.usable is not None}
    chosen = dict(list(own.items())[:_MOST_EXPLORED])
    given = {name: law for name, law in named.items() if not _of_loss(law)}
    published = {name: laws.load(name) for name in explorer.PUBLISHED}
    base = sources.baseline_law(found)
    losses = {} if base.usable is None else {"this study: its baselines": base.usable}
    losses |= {name: law for name, law in named.items() if _of_loss(law)}
    losses |= {name: laws.load(name) for name in explorer.BASELINES}
    totals = {row["N"]: row["N_total"] for row in [*found.rows, *found.baselines] if row.get("N_total")}
    described = explorer.describe(chosen | given | published, losses, totals)
    if base.usable is None and found.baselines:
        described["left_out"].append(f"This study's baselines have no law: {base.why}.")
    if len(own) > len(chosen):
        described["left_out"].append(
            f"{len(own) - len(chosen)} laws of smaller groups of this study are left out."
        )
    return described


def _of_loss(law: Law) -> bool:
    """Whether a law is one of unquantized losses in N and D."""
    return law.form.target == "loss" and {v.name for v in law.form.variables} <= {"N", "D"}


def render(name: str, told: list[Value], explored_laws: Value) -> str:
    """The page as text: template, styles, scripts and data, with a policy that allows these alone.

    Raises:
        QScaleError: Jinja2 or Plotly is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise QScaleError("the page needs Jinja2: pip install 'qscale[report]'") from error
    figures = {f["id"]: f["panels"] for s in told for p in s["parts"] for f in p["figures"]}
    data = {
        "figures": figures,
        "explorer": explored_laws,
        "colors": {"light": COLORS, "dark": DARK_COLORS},
    }
    style = _template("page.css")
    library = plotly()
    scripts = [_template(name) for name in ("explorer.js", "figures.js", "page.js")]
    environment = Environment(
        loader=PackageLoader("qscale.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        name=name,
        version=qscale.__version__,
        sections=told,
        style=style,
        scripts=scripts,
        plotly=library,  # evaluated by page.js once the page is there to be read: that takes longest
        data=embedded(data),
        policy=_policy([library, *scripts]),
        explorer=explored_laws,
    )


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: no text of it can end the element or a line.

    >>> embedded({"name": "</script>\\u2028&"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u2028\\\\u0026"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def plotly() -> str:
    """The text of plotly.js.

    Raises:
        QScaleError: Plotly is not installed.
    """
    try:
        text = resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    except (ImportError, OSError) as error:
        raise QScaleError("the page needs Plotly: pip install 'qscale[report]'") from error
    return text.replace("</script", "<\\/script")


def _template(name: str) -> str:
    return resources.files("qscale.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """The content security policy: the page's own scripts by their hashes, no other, and no network.

    Plotly sets styles by attributes and elements of its own, which no hash covers.
    """
    return (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
