"""Imports of thousands of modules in two thirds of the time, with nothing left otherwise behind them.

Half of the seconds before a training's first step are imports. Two things in them help nobody: the garbage collector,
which goes through all that was imported again and again and finds no garbage, and ``scipy.signal`` with the thousand
modules behind it, which torchmetrics imports to give it a name that an old version of another package looks for.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_NAME = "scipy.signal"


class _Later(ModuleType):
    """Stands for ``scipy.signal`` until something of it is asked for: then that is imported, and answers."""

    hamming = None  # what torchmetrics looks for, and would put there

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # inspect asks every module for its __file__
            raise AttributeError(name)
        _take_away(self)
        return getattr(import_module(_NAME), name)


def _take_away(stand_in: ModuleType) -> None:
    if sys.modules.get(_NAME) is stand_in:
        del sys.modules[_NAME]
        if "scipy" in sys.modules:  # which imports it itself, when it is next asked for it
            vars(sys.modules["scipy"]).pop("signal", None)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside, garbage is not collected and ``scipy.signal`` is not imported before something of it is used."""
    collecting = gc.isenabled()
    stand_in = None
    if _NAME not in sys.modules and find_spec("scipy") is not None:
        stand_in = sys.modules[_NAME] = _Later(_NAME)
    gc.disable()
    try:
        yield
    finally:
        if stand_in is not None:
            _take_away(stand_in)
        if collecting:
            gc.freeze()  # modules live as long as the process: no collection to come looks at them
            gc.enable()
