"""What a fresh interpreter loads for each light entry point, counted in modules, not seconds."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "safetensors", "scipy", "numpy", "matplotlib", "pyarrow", "rich", "yaml")
NO_TORCH = ("torch", "transformers", "safetensors", "scipy.optimize", "pyarrow", "matplotlib")


def loaded(statement):
    """Modules loaded in a new interpreter after one statement."""
    code = f"import json, sys\nout = sys.stdout\nsys.stdout = sys.stderr\n{statement}\n"
    code += "print(json.dumps(sorted(sys.modules)), file=out)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


HELP = "from qscale.cli import main\nmain(['--help'], standalone_mode=False)"
ENTRIES = {
    "package": ("import qscale\ndir(qscale)\nqscale.__version__", HEAVY),
    "help": (HELP, HEAVY),
    "sweep-help": (HELP.replace("'--help'", "'sweep', '--help'"), HEAVY),
    "run-help": (HELP.replace("'--help'", "'sweep', 'run', '--help'"), HEAVY),
    "bench-help": (HELP.replace("'--help'", "'bench', '--help'"), HEAVY),
    "fit-help": (HELP.replace("'--help'", "'fit', '--help'"), HEAVY),
    "formats": ("import qscale.formats", (*NO_TORCH, "numpy")),
    "noise": ("from qscale.formats import relmse", (*NO_TORCH, "scipy")),
    "laws": ("import qscale.laws", NO_TORCH),
    "planning": ("import qscale.planning", NO_TORCH),
    "public-names": ("import qscale\nqscale.laws, qscale.QuantSpec, qscale.Recipe", NO_TORCH),
    "grid": ("import qscale.sweep.grid", (*NO_TORCH, "numpy")),
    "store": ("import qscale.sweep.store, qscale.sweep.table, qscale.sweep.board", (*NO_TORCH, "numpy")),
    "executors": ("import qscale.sweep.local, qscale.sweep.ray_cluster, qscale.sweep.begin", NO_TORCH),
    "worker": ("import qscale.sweep.worker", NO_TORCH),
    "config": ("import qscale.training.config, qscale.training.paths, qscale.training.defaults", NO_TORCH),
    "ladder": ("import qscale.models.ladder", NO_TORCH),
    "corpus": ("import qscale.data.corpus", NO_TORCH),
}


@pytest.mark.parametrize(("statement", "forbidden"), ENTRIES.values(), ids=ENTRIES.keys())
def test_light_entry_points_stay_light(statement, forbidden):
    assert not loaded(statement) & set(forbidden)


def test_the_check_can_fail():
    assert loaded("import qscale.kernels") & set(NO_TORCH)


def test_an_unknown_public_name_is_an_attribute_error():
    import qscale

    with pytest.raises(AttributeError, match="no attribute 'fake_qant'"):
        _ = qscale.fake_qant
    assert set(qscale.__all__) <= set(dir(qscale))
