"""What is not installed is named together with the extra that installs it."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from lightning_cifake.errors import UserError
from lightning_cifake.extras import EXTRA_OF, MissingExtra, missing_extra, require
from lightning_cifake.shipped import released_model

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
"""The start of a program in which these modules are not installed."""


def run_without(modules: set[str], program: str) -> str:
    source = WITHOUT.format(modules=modules) + program
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_installed_is_passed_over_and_not_imported():
    require("train", "json", "this", what="fit")
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("modules", "sentence"),
    [
        (["no_such_a"], "fit needs no_such_a: pip install 'lightning_cifake[train]'"),
        (
            ["no_such_a", "json", "no_such_b"],
            "fit needs no_such_a and no_such_b: pip install 'lightning_cifake[train]'",
        ),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(modules, sentence):
    with pytest.raises(UserError) as raised:
        require("train", *modules, what="fit")
    assert str(raised.value) == sentence


def test_none_in_the_place_of_a_module_is_a_module_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="ray"):
        require("ray", "ray", what="the example")


def test_an_import_that_failed_becomes_the_sentence_where_an_extra_would_mend_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = missing_extra(ModuleNotFoundError("No module named 'torch'", name="torch.nn"), "KerasAdam")
    assert str(found) == "KerasAdam needs torch: pip install 'lightning_cifake[train]'"
    assert missing_extra(ModuleNotFoundError("No module named 'numpy'", name="numpy"), "KerasAdam") is None


def test_a_module_that_is_there_and_fails_on_its_way_in_is_not_called_missing():
    assert missing_extra(ImportError("libcudart.so: cannot open", name="numpy"), "KerasAdam") is None
    assert missing_extra(ImportError("cannot import name 'x' from 'h5py'", name="h5py"), "KerasAdam") is None


def test_without_torch_the_public_name_says_which_extra_it_needs():
    program = """
import lightning_cifake
for name in ("FakeImageClassifier", "ResNet50Detector"):
    try:
        getattr(lightning_cifake, name)
    except ImportError as error:
        print(error)
"""
    assert run_without({"torch"}, program).splitlines() == [
        "lightning_cifake.FakeImageClassifier needs torch: pip install 'lightning_cifake[train]'",
        "lightning_cifake.ResNet50Detector needs torch: pip install 'lightning_cifake[train]'",
    ]


ROOT = Path(__file__).parents[1]
INSTALLED = ["numpy", "PIL", "onnxruntime", "onnx", "jsonargparse", "yaml", "rich"]


def test_every_module_that_is_imported_comes_with_the_package_or_with_the_extra_that_is_named_for_it():
    """So an environment that has no more than pyproject.toml asks for has all that the code imports."""
    graph = grimp.build_graph("lightning_cifake", include_external_packages=True, cache_dir=None)
    external = {each for each in graph.modules if graph.is_module_squashed(each)} - set(sys.stdlib_module_names)
    assert external - set(INSTALLED) <= set(EXTRA_OF)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distributions = packages_distributions()
    for module, extra in [(each, None) for each in INSTALLED] + list(EXTRA_OF.items()):
        asked = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
        names = {canonicalize_name(Requirement(each).name) for each in asked}
        assert names & {canonicalize_name(each) for each in distributions[module]}, (module, extra)


def test_base_commands_do_with_what_the_package_itself_installs(tmp_path):
    """``predict`` with the released model, ``verify`` of it and every --help, in a process that has no extra."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    model = str(released_model())
    commands = [["predict", str(tmp_path / "red.png")], ["verify", model], ["--help"]]
    commands += [[name, "--help"] for name in ("predict", "verify", "download", "export", "convert", "benchmark")]
    program = f"""
from lightning_cifake.commands.main import main
for command in {commands!r}:
    try:
        code = main(command)
    except SystemExit as ended:
        code = ended.code
    assert code == 0, (command, code)
"""
    printed = run_without(set(EXTRA_OF), program)
    assert "red.png\t" in printed and f"verified: {model}" in printed


def test_a_command_without_its_extra_says_in_one_line_which_one_to_install(tmp_path):
    model = str(released_model())
    asked = {
        "fit": ["fit"],
        "fit ": ["fit", "--help"],
        "test": ["test"],
        "export": ["export", "--ckpt_path", "a.ckpt", "--output", "a.onnx"],
        "benchmark": ["benchmark"],
        "convert": ["convert", "a.keras", "b.ckpt"],
        "ensemble": ["ensemble", "a.ckpt", "b.ckpt", "--output", "c.ckpt"],
        "validate": ["validate"],
        "predict --ckpt_path": ["predict", "--ckpt_path", "a.ckpt", "a.png"],
        "verify --ckpt_path": ["verify", model, "--ckpt_path", "a.ckpt"],
        "verify --data.root": ["verify", model, "--data.root", "demo"],
    }
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    program = f"""
import contextlib, io, os
from lightning_cifake.commands.main import main
os.chdir({str(tmp_path)!r})
for command in {list(asked.values())!r}:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(command)
    print(code, said.getvalue(), end="")
"""
    lines = run_without({"torch"}, program).splitlines()
    assert lines == [f"2 error: {what.strip()} needs torch: pip install 'lightning_cifake[train]'" for what in asked]


def test_an_import_that_a_command_did_not_ask_for_is_named_with_its_extra_too():
    program = """
import contextlib, io
from lightning_cifake.commands.main import main
said = io.StringIO()
with contextlib.redirect_stderr(said):
    code = main(["fit", "--trainer.max_epochs", "1"])
print(code, said.getvalue().splitlines()[-1])
"""
    assert run_without({"torchmetrics"}, program) == (
        "2 error: fit needs torchmetrics: pip install 'lightning_cifake[train]'\n"
    )
