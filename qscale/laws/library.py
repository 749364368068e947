"""The laws that come with qscale, and loading any law by id or path."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from qscale.errors import LawError
from qscale.laws.law import Law


def list_published() -> list[str]:
    """The ids of the laws of the literature.

    Example:
        >>> "chen2025/w4a4" in list_published()
        True
    """
    folder = resources.files("qscale.laws").joinpath("published")
    return sorted(
        f"{source.name}/{file.name.removesuffix('.json')}"
        for source in folder.iterdir()
        if source.is_dir()
        for file in source.iterdir()
        if file.name.endswith(".json")
    )


def load(law: str | Path) -> Law:
    """A law by id (``chen2025/w4a4``) or from a law file (``law.json``).

    A text that is the id of a published law is that law; anything else is a path.

    Raises:
        LawError: No such law or file (the nearest id is given), or the file is not a law file.

    Example:
        >>> load("hoffmann2022/chinchilla").status
        'published'
    """
    known = list_published()
    if not isinstance(law, (str, Path)):
        raise LawError(f"no law {law!r}: give the id of a published law or the path of a law file")
    if isinstance(law, str) and law in known:
        file = resources.files("qscale.laws").joinpath("published", *f"{law}.json".split("/"))
        return Law.loads(file.read_text(encoding="utf-8"))
    path = Path(law)
    if path.is_file():
        return Law.from_json(path)
    nearest = get_close_matches(str(law), known, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise LawError(
        f"no law {str(law)!r}: neither a file nor a published law; {hint}published: {', '.join(known)}"
    )
