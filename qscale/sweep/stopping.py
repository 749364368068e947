"""Ctrl-C as a request: the first asks, a second insists."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

#: SIGHUP: the terminal was closed; the study should then rest in a state that resumes.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """While entered, counts SIGINT, SIGTERM and SIGHUP instead of dying of them.

    Args:
        insist: Raise KeyboardInterrupt at the second signal, for work that may not look at the count.
    """

    def __init__(self, *, insist: bool = False) -> None:
        self.count = 0
        self.insist = insist
        self._before: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        return self.count > 0

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP: so do we
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.insist and self.count > 1:
            raise KeyboardInterrupt
