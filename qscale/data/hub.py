"""Corpora of the ``datasets`` package: rows streamed once, up to a byte limit. No torch.

The package is optional, and nothing here is imported from it before a corpus is asked for.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from qscale.errors import ConfigError, CorpusError
from qscale.units import parse_count

_NAME = re.compile(r"hf:([^:,\s]+)(?::([^:,\s]+))?((?:,[^,]*)*)")
_OPTIONS = ("bytes", "column", "split", "revision")
#: Seconds without a row after which a stream counts as dead: libraries below retry for minutes.
_PATIENCE = 30.0
_END = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A data set by name, and how much of which text of it.

    Grammar: ``hf:NAME[:CONFIG],bytes=LIMIT[,column=NAME][,split=NAME][,revision=NAME]``.

    Example:
        >>> str(HubSource.parse("hf:org/news:2024,bytes=100M,split=train"))
        'hf:org/news:2024,bytes=100000000'
    """

    name: str
    config: str | None = None
    limit: int  #: bytes; whole documents are taken until the next one would go past
    column: str | None = None  #: None: ``text``, or the one column of text that there is
    split: str = "train"
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubSource:
        """Read a corpus name.

        Raises:
            ConfigError: It does not follow the grammar, or gives no limit.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise ConfigError(f"corpus {text!r} is not hf:NAME[:CONFIG],bytes=100M")
        options: dict[str, Any] = {}
        for item in match[3].split(",")[1:]:
            key, _, value = item.partition("=")
            if key not in _OPTIONS:
                nearest = get_close_matches(key, _OPTIONS, n=1, cutoff=0.5)
                hint = f"did you mean {nearest[0]!r}? " if nearest else ""
                raise ConfigError(
                    f"corpus {text!r}: unknown option {key!r}; {hint}known: {', '.join(_OPTIONS)}"
                )
            if not value or key in options:
                raise ConfigError(f"corpus {text!r}: give {key} once, as {key}=VALUE")
            options[key] = value
        if "bytes" not in options:
            raise ConfigError(f"corpus {text!r}: say how much text to stream, such as {text},bytes=100M")
        limit = parse_count(options.pop("bytes"))
        return cls(name=match[1], config=match[2], limit=limit, **options)

    def __str__(self) -> str:
        text = f"hf:{self.name}" + (f":{self.config}" if self.config else "") + f",bytes={self.limit}"
        text += f",column={self.column}" if self.column else ""
        text += f",split={self.split}" if self.split != "train" else ""
        return text + (f",revision={self.revision}" if self.revision else "")

    def documents(self) -> Iterator[bytes]:
        """The texts, in the order of the data set, until the limit; a null is an empty document.

        Raises:
            CorpusError: The package is missing, nothing can be reached, or there is no such text.
        """
        try:
            import datasets
        except ImportError as error:
            raise CorpusError(
                f"corpus {str(self)!r} needs the package datasets, which is not installed: "
                "pip install 'qscale[datasets]', or name a text of your own as file:PATH"
            ) from error

        def rows() -> Any:
            return datasets.load_dataset(
                self.name, self.config, split=self.split, revision=self.revision, streaming=True
            )

        column, total = "", 0
        for number, row in enumerate(self._reached(rows), 1):
            column = self._column(row) if number == 1 else column
            value = row.get(column)
            if value is None and column in row:
                continue
            if not isinstance(value, str):
                raise CorpusError(
                    f"corpus {str(self)!r} row {number}: column {column!r} holds no text "
                    f"({type(value).__name__}); columns: {', '.join(row)}"
                )
            try:
                document = value.encode()
            except UnicodeEncodeError as error:
                raise CorpusError(f"corpus {str(self)!r} row {number}: not valid text ({error})") from error
            total += len(document)
            if total > self.limit:
                return
            yield document

    def _column(self, row: Mapping[str, Any]) -> str:
        names = [name for name, value in row.items() if isinstance(value, str)]
        if self.column is not None:
            if self.column not in row:
                nearest = get_close_matches(self.column, list(row), n=1, cutoff=0.5)
                hint = f"did you mean {nearest[0]!r}? " if nearest else ""
                raise CorpusError(
                    f"corpus {str(self)!r} has no column {self.column!r}; {hint}columns: {', '.join(row)}"
                )
            return self.column
        if "text" in row:
            return "text"
        if len(names) != 1:
            raise CorpusError(
                f"corpus {str(self)!r}: say which column is the text, such as "
                f"column={(names or ['text'])[0]}; columns: {', '.join(row)}"
            )
        return names[0]

    def _reached(self, rows: Callable[[], Iterable[Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
        try:
            yield from _promptly(rows, _PATIENCE)
        except CorpusError:
            raise
        except TimeoutError as error:
            reason = f"nothing came for {_PATIENCE:.0f} seconds"
            raise self._unreachable(reason) from error
        except Exception as error:  # the package and its transports raise their own kinds
            lines = str(error).strip().splitlines() or [""]
            raise self._unreachable(f"{type(error).__name__}: {lines[0][:300]}") from error

    def _unreachable(self, reason: str) -> CorpusError:
        return CorpusError(
            f"corpus {str(self)!r} cannot be streamed ({reason}): check the name, its configuration and the "
            "network; without a network name a text of your own as file:PATH"
        )


def _promptly(rows: Callable[[], Iterable[Any]], seconds: float) -> Iterator[Any]:
    """Rows made in another thread; TimeoutError where none comes for ``seconds``."""
    box: queue.Queue[Any] = queue.Queue(maxsize=1024)
    left = threading.Event()

    def put(item: Any) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                box.put(item, timeout=1.0)
                return

    def produce() -> None:
        try:
            for row in rows():
                put(row)
                if left.is_set():
                    return
            put(_END)
        except BaseException as error:  # raised again where the rows are read
            put(error)

    threading.Thread(target=produce, daemon=True, name="qscale-corpus").start()
    try:
        while True:
            try:
                item = box.get(timeout=seconds)
            except queue.Empty:
                raise TimeoutError from None
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
