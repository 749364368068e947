"""The wheel as a user installs it: without torch, and with it."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[1]
SITE = Path(numpy.__file__).parents[1]
#: What `pip install qscale` brings: NumPy, SciPy, a few small packages and what those need.
PLAIN = (
    "numpy*",
    "scipy*",
    "click*",
    "rich*",
    "pygments*",
    "markdown_it*",
    "mdurl*",
    "yaml",
    "_yaml",
    "pyyaml*",
)

FIT_AND_PREDICT = """
from qscale import laws
table = {"N": [1e5, 1e5, 1e5, 2e5, 2e5, 4e5], "D": [1e6, 2e6, 4e6, 4e6, 8e6, 8e6]}
table["G"] = [16, 32, 64, 16, 64, 32]
true = laws.load("chen2025/w4a4")
table["delta"] = [float(true.predict(N=n, D=d, G=g)) for n, d, g in zip(table["N"], table["D"], table["G"])]
law = laws.fit(table, form="qat-unified")
assert abs(law.predict(N=1e9, D=1e11, G=128) / true.predict(N=1e9, D=1e11, G=128) - 1) < 1e-6
"""


def _run(*command, cwd, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))} | environment
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # In the checkout's own build folder, where `make` has built: what is up to date is not compiled again.
    define = "cmake.define.QSCALE_KERNELS=ON"
    pip = (sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet")
    _run(*pip, "-C", define, "-w", str(folder), str(ROOT), cwd=folder)
    (path,) = folder.glob("qscale-*.whl")
    return path


def _environment(folder, wheel, packages):
    """A new environment with the wheel, and links to some of the packages of this one."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for pattern in packages:
        for path in SITE.glob(pattern):
            (site / path.name).symlink_to(path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def plain(wheel, tmp_path_factory):
    return _environment(tmp_path_factory.mktemp("plain"), wheel, PLAIN)


def test_wheel_serves_every_python_from_3_10_and_holds_kernels_and_data(wheel):
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("qscale/kernels/") and name.endswith(".so") for name in names)
    assert any(name.startswith("qscale/laws/published/") for name in names)
    for file in ("page.html", "page.css", "explorer.js", "figures.js", "page.js"):
        assert f"qscale/report/templates/{file}" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "demo"))]


def test_plain_install_without_torch_fits_and_predicts(plain, tmp_path):
    _run(str(plain), "-c", FIT_AND_PREDICT, cwd=tmp_path)
    with pytest.raises(AssertionError, match=r"qscale\.fake_quant needs torch"):
        _run(str(plain), "-c", "from qscale import fake_quant", cwd=tmp_path)


def test_plain_install_without_torch_serves_the_command_line(plain, tmp_path):
    cli = (str(plain), "-m", "qscale")
    assert "sweep" in _run(*cli, "--help", cwd=tmp_path)
    assert "0.05728" in _run(
        *cli, "predict", "chen2025/w4a4", "-N", "595M", "-D", "100B", "-G", "128", cwd=tmp_path
    )
    table = "N,D,G,delta\n" + "".join(
        f"{n},{d},{g},{0.1 * (d / 1e6) ** 0.1 * (n / 1e5) ** -0.2 * g**0.1}\n"
        for n in (1e5, 2e5, 4e5)
        for d in (2e6, 8e6)
        for g in (16, 64)
    )
    (tmp_path / "runs.csv").write_text(table)
    assert "gN" in _run(*cli, "fit", "runs.csv", "--out", "law.json", cwd=tmp_path)
    assert (tmp_path / "law.json").is_file()


def test_plain_install_says_what_is_missing_for_training(plain, tmp_path):
    assert "torch" in _run(str(plain), "-m", "qscale", "doctor", cwd=tmp_path)
    with pytest.raises(AssertionError, match="qscale bench times torch operators: pip install torch"):
        _run(str(plain), "-m", "qscale", "bench", cwd=tmp_path)


def test_wheel_with_torch_uses_its_compiled_kernels(wheel, tmp_path):
    python = _environment(tmp_path / "full", wheel, ())
    torch_beside = f"import sys; sys.path.append({str(SITE)!r}); "
    check = (
        "import torch, qscale.kernels as k; "
        f"assert k.__file__.startswith({str(tmp_path)!r}), k.__file__; "
        "x = torch.linspace(-1, 1, 64); "
        "\nwith k.use_backend('cpu'): y = k.fake_quant(x, 'int4:g32')"
        "\nwith k.use_backend('reference'): assert torch.equal(y, k.fake_quant(x, 'int4:g32'))"
    )
    _run(str(python), "-c", torch_beside + check, cwd=tmp_path)
