"""The figures of a study at the widths of a journal's columns, as PDF and SVG, and their captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qscale.errors import FitError, LawError, StoreError
from qscale.laws import Law
from qscale.report import (
    canvas,
    figures,
    fit_figures,
    law_figures,
    layer_figures,
    likelihood_figures,
    sources,
)
from qscale.report.sections.law import drawn
from qscale.sweep.table import layer_rows


@dataclass(frozen=True, slots=True)
class Made:
    """What was written, and why the rest was not."""

    figures: list[str] = field(default_factory=list)  #: names of files
    left: dict[str, str] = field(default_factory=dict)


def write(
    source: Path,
    folder: Path,
    *,
    named: Mapping[str, Law] | None = None,
    form: str | None = None,
    objective: str | None = None,
    mode: str | None = None,
    recipe: str | None = None,
    method: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Made:
    """Write every figure that the source has: the law, its fit, residuals, profiles, contours, the layers.

    Of several groups of runs the largest with a law is drawn. Widths are 3.3 inches (one panel) or 6.9, text
    is 8 points, fonts are embedded as they are. Titles and captions go to ``captions.md``.

    Args:
        source: A study folder, or a CSV or Parquet table.
        folder: Where the files go.
        named: The first of delta in N, D and G is drawn through the points in place of the fitted law.
        form: The form to fit, by default ``qat-unified``, or ``qat-power`` where G does not vary.
        objective: Of the fit and the profiles.
        mode: Only runs of this mode.
        recipe: Only runs of this recipe.
        method: Only runs of this method of quantization after training.
        columns: A table's own names of columns.

    Raises:
        StoreError: The source holds no study, or a file cannot be written.
        LawError: The table cannot be read.
        QScaleError: matplotlib is not installed.
    """
    found = sources.read(source, mode=mode, recipe=recipe, method=method, columns=columns)
    fits, _ = sources.fit_groups(found, form, objective)
    first = next((fit for fit in drawn(fits) if fit.usable is not None), None)
    made = Made()
    if first is None or first.usable is None:
        why = fits[0].why if fits else "no quantized run has a delta"
        made.left.update(dict.fromkeys(("law", "fit", "residuals", "profiles", "contours"), str(why)))
        todo: dict[str, Callable[[Path], object]] = {}
    else:
        rows, law, fitted_form = first.group.rows, first.usable, first.form.partition("[")[0]
        shown = next((one for one in (named or {}).values() if one.form.target == "delta"), law)
        groups = tuple(sorted(set(law.box["G"]))) if "G" in law.box else ()
        todo = {
            "law": lambda path: figures.law_figure(rows, shown, path),
            "fit": lambda path: fit_figures.fit_figure(rows, law, path),
            "residuals": lambda path: fit_figures.residual_figure(rows, law, path),
            "profiles": lambda path: likelihood_figures.profile_figure(
                rows, fitted_form, path, objective=objective or "l2"
            ),
            "contours": lambda path: law_figures.contour_figure(law, path, groups=groups),
        }
    if found.folder is None:
        made.left["layers"] = "diagnostics of layers lie in a study's folder"
    elif layers := layer_rows(found.folder, mode=mode, recipe=recipe):
        todo["layers"] = lambda path: layer_figures.layer_figure(layers, path)
    else:
        made.left["layers"] = "no finished run has looked at its layers"
    with canvas.paper() as captions:
        for name, draw in todo.items():
            try:
                draw(folder / f"{name}.pdf")
                made.figures.extend([f"{name}.pdf", f"{name}.svg"])
            except (LawError, FitError) as error:
                made.left[name] = str(error)
    text = "".join(f"## {path.stem}\n\n{caption}\n\n" for path, caption in captions.items())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "captions.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"captions cannot be written to {str(folder)!r}: {error}") from error
    return made
