"""The classes are defined once, where everything can import them from."""

import ast
import subprocess
import sys
from pathlib import Path

import lightning_cifake
from lightning_cifake.classes import CLASS_NAMES, DISPLAY_NAMES, FAKE, POSITIVE, POSITIVE_NAME, REAL
from lightning_cifake.deploy.answers import AI, decide

PACKAGE = Path(lightning_cifake.__file__).parent


def test_no_other_module_spells_a_class_s_name() -> None:
    spelt = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in {*CLASS_NAMES, *DISPLAY_NAMES}
    }
    assert spelt == {"classes.py"}


def test_the_positive_class_is_what_a_probability_above_the_threshold_is_called() -> None:
    assert (CLASS_NAMES[FAKE], CLASS_NAMES[REAL]) == ("FAKE", "REAL") and DISPLAY_NAMES == ("AI", "REAL")
    assert (
        decide(0.9, 0.5) == DISPLAY_NAMES[POSITIVE] == POSITIVE_NAME and decide(0.1, 0.5) == DISPLAY_NAMES[FAKE] == AI
    )


def test_the_classes_need_no_other_package() -> None:
    code = "import sys, lightning_cifake.classes; print(*{'torch', 'numpy', 'sklearn'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
