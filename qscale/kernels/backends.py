"""What can run here, why the rest cannot, and the choice between them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from qscale.errors import BackendError

#: What every op takes.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_AUTO = "auto"
_NAMES = (_AUTO, "cpu", "reference")
_ONLY_REFERENCE = "has no kernel for this dialect, which is plain torch"
_REMEDY = "reinstall with torch present: pip install --no-build-isolation qscale (or . in a checkout)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One implementation of the ops, and whether this process can use it."""

    name: str
    available: bool
    detail: str  #: the instruction set in use, or why the backend is not available


def _load_compiled() -> str | None:
    """Load the compiled kernels; the reason where that fails."""
    switch = os.environ.get("QSCALE_KERNELS", "AUTO").upper()
    if switch not in ("AUTO", "OFF"):
        raise BackendError(f"QSCALE_KERNELS is {switch!r}; wanted AUTO or OFF")
    if switch == "OFF":
        return "switched off by QSCALE_KERNELS=OFF"
    # Asking the import system finds the library in a wheel and in an editable install alike; it is not a
    # Python module, and is never imported as one.
    found = find_spec("qscale.kernels._C_cpu")
    if found is None or found.origin is None:
        return f"the compiled kernels are not installed; {_REMEDY}"
    try:
        torch.ops.load_library(found.origin)  # type: ignore[no-untyped-call]
    except OSError as error:
        library, why = Path(found.origin).name, error.__cause__ or error
        return f"{library} does not load into torch {torch.__version__}: {why}; {_REMEDY}"
    return None


_refusal = _load_compiled()
_chosen = _AUTO
_warned = False


def backends() -> list[Backend]:
    """Every backend of this process: ``cpu``, the compiled kernels, and ``reference``, plain torch.

    Example:
        >>> [backend.name for backend in backends()]
        ['cpu', 'reference']
    """
    if _refusal is None:
        try:
            cpu = Backend(name="cpu", available=True, detail=f"instruction set {cpu_isa()}")
        except BackendError as error:
            cpu = Backend(name="cpu", available=False, detail=str(error))
    else:
        cpu = Backend(name="cpu", available=False, detail=_refusal)
    return [cpu, Backend(name="reference", available=True, detail="plain torch, on any device")]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every op runs on the named backend, or raises; the choice is the process's.

    Args:
        name: ``"cpu"``, ``"reference"``, or ``"auto"``: compiled kernels for CPU tensors, else the reference.

    Raises:
        BackendError: There is no such backend, or it is not available; the message lists why. A call that
            the backend cannot serve raises where it is made.

    Example:
        >>> import torch
        >>> from qscale.kernels import fake_quant
        >>> with use_backend("reference"):
        ...     fake_quant(torch.tensor([1.0, -0.4]), "int4:g2")
        tensor([ 1.0000, -0.4286])
    """
    global _chosen
    if name not in _NAMES:
        raise BackendError(f"there is no backend {name!r}; known: {', '.join(_NAMES)}")
    refused = [f"  {b.name}: {b.detail}" for b in backends() if b.name == name and not b.available]
    if refused:
        raise BackendError("\n".join([f"backend {name!r} is not available.", *refused, _way_out()]))
    previous, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = previous


def cpu_isa() -> str:
    """The instruction set of the compiled kernels: ``QSCALE_ISA``, or the widest that the machine runs.

    Raises:
        BackendError: The compiled kernels are not available, or QSCALE_ISA names none that can run here.
    """
    if _refusal is not None:
        raise BackendError(f"compiled kernels: {_refusal}")
    try:
        return str(torch.ops.qscale.cpu_isa())
    except ValueError as error:
        raise BackendError(str(error)) from None


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Within the block the compiled kernels use ``plain``, ``avx2`` or ``avx512``; the bits stay the same.

    Raises:
        BackendError: This machine cannot run it; the message lists what it can.
    """
    previous = cpu_isa()
    try:
        torch.ops.qscale.use_cpu_isa(name)
    except ValueError as error:
        raise BackendError(str(error)) from None
    try:
        yield
    finally:
        torch.ops.qscale.use_cpu_isa(previous)


def on_reference(op: str, x: Tensor, *, compiled: bool = True) -> bool:
    """Whether a call goes to the plain torch reference by choice; registered kernels serve it otherwise.

    ``compiled`` says whether what is asked has compiled kernels at all.

    Raises:
        BackendError: The chosen backend cannot serve ``x``.
    """
    if x.dtype in DTYPES:
        if _chosen == _AUTO:
            if _refusal is not None and not _warned and x.device.type == "cpu":
                _warn_once()
            return False
        if _chosen == "reference":
            return True
        if x.device.type == "cpu" and compiled:
            return False
    raise no_backend(op, x, compiled)


def no_backend(op: str, x: Tensor, compiled: bool = True) -> BackendError:
    """The call, the input, and what each backend has against it."""
    dtypes = "needs float32, bfloat16 or float16"
    bad_dtype = x.dtype not in DTYPES
    refusals: Mapping[str, str | None] = {
        "cpu": _refusal
        or (dtypes if bad_dtype else f"needs a CPU tensor, not {x.device}" if compiled else _ONLY_REFERENCE),
        "reference": dtypes if bad_dtype else None,
    }
    found = f"{x.dtype} {list(x.shape)} on {x.device}".replace("torch.", "")
    lines = [f"{op}: backend {_chosen!r} cannot run this call.", f"  input: {found}"]
    lines += [f"  {name}: {reason}" for name, reason in refusals.items() if reason]
    return BackendError("\n".join([*lines, "  Convert the tensor first." if bad_dtype else _way_out()]))


def _way_out() -> str:
    return "  Backend 'reference' runs on any device, at reference speed."


def _warn_once() -> None:
    global _warned
    _warned = True
    warnings.warn(
        f"qscale runs its plain torch reference, which is many times slower: {_refusal}", stacklevel=4
    )
