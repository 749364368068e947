"""``qscale doctor``: what works on this machine, and why the rest does not."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata, util
from typing import Any

import click

#: The modules that each extra brings; one that is missing is named.
_EXTRAS = {
    "train": ("torch", "transformers", "safetensors", "tokenizers"),
    "datasets": ("datasets",),
    "report": ("matplotlib",),
    "ray": ("ray",),
    "bench": ("torchao", "ml_dtypes", "bitsandbytes", "gfloat", "pytest_benchmark"),
}


@click.command(name="doctor", epilog="Example: qscale doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what works on this machine, and why the rest does not."""
    found = _examine()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"qscale   {found['qscale']}")
    click.echo(f"python   {found['python']} on {found['platform']}")
    memory = "unknown" if found["memory_bytes"] is None else f"{found['memory_bytes'] / 2**30:.1f} GiB"
    click.echo(f"machine  {found['cores']} cores for this process, {memory} of memory")
    click.echo(f"torch    {found['torch']['detail']}")
    for name in ("kernels", "corpora", "extras"):
        for row in found[name]:
            click.echo(f"{name:<8} {'ok' if row['available'] else '--'} {row['name']}: {row['detail']}")


def _examine() -> dict[str, Any]:
    import qscale

    return {
        "qscale": qscale.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_bytes": _memory(),
        "torch": _torch(),
        "kernels": _kernels(),
        "corpora": _corpora(),
        "extras": [_extra(name, modules) for name, modules in _EXTRAS.items()],
    }


def _row(name: str, available: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "available": available, "detail": detail}


def _memory() -> int | None:
    """Bytes of memory, or of this control group's share where that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:  # noqa: PTH123
            return min(total, int(file.read()))
    except (OSError, ValueError):  # no control group, or "max"
        return total


def _torch() -> dict[str, Any]:
    if util.find_spec("torch") is None:
        return _row("torch", False, "not installed: laws and planning work, training needs 'qscale[train]'")
    try:
        import torch
    except (ImportError, OSError) as error:
        return _row("torch", False, f"installed but does not load: {error}")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return _row("torch", True, f"{torch.__version__}, {', '.join(gpus) or 'no GPU'}")


def _kernels() -> list[dict[str, Any]]:
    from qscale.errors import QScaleError

    try:
        from qscale.kernels import backends
    except (ImportError, OSError, QScaleError) as error:
        return [_row("kernels", False, f"do not load: {error}")]
    return [_row(backend.name, backend.available, backend.detail) for backend in backends()]


def _corpora() -> list[dict[str, Any]]:
    """Each corpus and whether it can be read; none is built for this."""
    found = {name: _installed(name) for name in ("torch", "sympy", "networkx", "numpy", "scipy")}
    present = [f"{name} {version}" for name, version in found.items() if version is not None]
    python = _row(
        "python", bool(present), f"source of {', '.join(present)}" if present else "no package found"
    )
    version = _installed("datasets")
    detail = f"datasets {version}" if version else "needs datasets: pip install 'qscale[datasets]'"
    return [
        python,
        _row("file:PATH", True, "a text file, a jsonl file or a folder of your own"),
        _row("hf:NAME", version is not None, detail),
    ]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extra(name: str, modules: tuple[str, ...]) -> dict[str, Any]:
    missing = [module for module in modules if util.find_spec(module) is None]
    detail = f"missing {', '.join(missing)}: pip install 'qscale[{name}]'" if missing else ", ".join(modules)
    return _row(name, not missing, detail)
