"""Read by the interpreters of a small study: rolling checkpoints ten times a second, not twice a minute."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

_NAME = "qscale.training.engine"
_SECONDS = 0.1


class _Often(MetaPathFinder):
    """Changes the interval when its module is imported: to import it here would load torch everywhere."""

    def find_spec(self, fullname, path=None, target=None):  # noqa: ARG002 - as the importer calls it
        if fullname != _NAME:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            assert module._CHECKPOINT_EVERY > _SECONDS  # it is still called so
            module._CHECKPOINT_EVERY = _SECONDS

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Often())
