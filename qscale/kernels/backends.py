"""What can run here, why the rest cannot, and the choice between them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
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
_NAMES = (_AUTO, "cpu", "cuda", "reference")
_ONLY_REFERENCE = "has no kernel for this dialect, which is plain torch"
_CUDA_REMEDY = (
    "reinstall where nvcc of the same CUDA major is found: "
    "pip install --no-build-isolation -C cmake.define.QSCALE_CUDA=ON qscale"
)
_REMEDY = "reinstall with torch present: pip install --no-build-isolation qscale (or . in a checkout)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One implementation of the ops, and whether this process can use it."""

    name: str
    available: bool
    detail: str  #: the instruction set in use, or why the backend is not available


def _load_compiled(device: str, remedy: str) -> str | None:
    """Load the compiled kernels of a device; the reason where that fails."""
    switch = os.environ.get("QSCALE_KERNELS", "AUTO").upper()
    if switch not in ("AUTO", "OFF"):
        raise BackendError(f"QSCALE_KERNELS is {switch!r}; wanted AUTO or OFF")
    if switch == "OFF":
        return "switched off by QSCALE_KERNELS=OFF"
    # Asking the import system finds the library in a wheel and in an editable install alike; it is not a
    # Python module, and is never imported as one.
    found = find_spec(f"qscale.kernels._C_{device}")
    if found is None or found.origin is None:
        return f"the compiled kernels are not installed; {remedy}"
    try:
        torch.ops.load_library(found.origin)  # type: ignore[no-untyped-call]
    except OSError as error:
        library, why = Path(found.origin).name, error.__cause__ or error
        return f"{library} does not load into torch {torch.__version__}: {why}; {remedy}"
    return None


def _load_cuda() -> str | None:
    """Load the CUDA kernels where torch has CUDA; the reason where that fails. A GPU is asked for later."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return _load_compiled("cuda", _CUDA_REMEDY)


#: Why compiled kernels cannot be used, by device; None where they can.
_refusals: dict[str, str | None] = {"cpu": _load_compiled("cpu", _REMEDY), "cuda": _load_cuda()}
_chosen = _AUTO
_warned = False


def backends() -> list[Backend]:
    """Every backend of this process: the compiled kernels ``cpu`` and ``cuda``; plain torch, ``reference``.

    Example:
        >>> [backend.name for backend in backends()]
        ['cpu', 'cuda', 'reference']
    """
    return [_cpu(), _cuda(), Backend(name="reference", available=True, detail="plain torch, on any device")]


def _cpu() -> Backend:
    refusal = _refusals["cpu"]
    if refusal is not None:
        return Backend(name="cpu", available=False, detail=refusal)
    try:
        return Backend(name="cpu", available=True, detail=f"instruction set {cpu_isa()}")
    except BackendError as error:
        return Backend(name="cpu", available=False, detail=str(error))


def _cuda() -> Backend:
    refusal = _refusals["cuda"]
    if refusal is None and not torch.cuda.is_available():
        refusal = "torch finds no CUDA device"
    if refusal is not None:
        return Backend(name="cuda", available=False, detail=refusal)
    return Backend(name="cuda", available=True, detail=torch.cuda.get_device_name())


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every op runs on the named backend, or raises; the choice is the process's.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"reference"``, or ``"auto"``: the compiled kernels of a tensor's device
            where there are, else the reference.

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
    if _refusals["cpu"] is not None:
        raise BackendError(f"compiled kernels: {_refusals['cpu']}")
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


def on_reference(op: str, x: Tensor, *, compiled: bool = True, dtype: torch.dtype | None = None) -> bool:
    """Whether a call goes to the plain torch reference by choice; registered kernels serve it otherwise.

    ``compiled`` says whether what is asked has compiled kernels at all; ``dtype`` is that of the values,
    where ``x`` are codes.

    Raises:
        BackendError: The chosen backend cannot serve ``x``.
    """
    if (dtype or x.dtype) in DTYPES:
        if _chosen == _AUTO:
            if not _warned and _refusals.get(x.device.type) is not None:
                _warn_once(x.device.type)
            return False
        if _chosen == "reference":
            return True
        if x.device.type == _chosen and compiled:
            return False
    raise no_backend(op, x, compiled, dtype or x.dtype)


def no_backend(op: str, x: Tensor, compiled: bool = True, dtype: torch.dtype | None = None) -> BackendError:
    """The call, the input, and what each backend has against it."""
    dtypes = "needs float32, bfloat16 or float16"
    bad_dtype = (dtype or x.dtype) not in DTYPES
    refusals: dict[str, str | None] = {
        device: _refusals[device]
        or (
            dtypes
            if bad_dtype
            else _ONLY_REFERENCE
            if not compiled
            else f"needs a {device.upper()} tensor, not {x.device}"
        )
        for device in ("cpu", "cuda")
    }
    refusals["reference"] = dtypes if bad_dtype else None
    found = f"{x.dtype} {list(x.shape)} on {x.device}".replace("torch.", "")
    lines = [f"{op}: backend {_chosen!r} cannot run this call.", f"  input: {found}"]
    lines += [f"  {name}: {reason}" for name, reason in refusals.items() if reason]
    return BackendError("\n".join([*lines, "  Convert the tensor first." if bad_dtype else _way_out()]))


def _way_out() -> str:
    return "  Backend 'reference' runs on any device, at reference speed."


def _warn_once(device: str) -> None:
    global _warned
    _warned = True
    warnings.warn(
        f"qscale runs its plain torch reference, which is many times slower: {_refusals[device]}",
        stacklevel=4,
    )
