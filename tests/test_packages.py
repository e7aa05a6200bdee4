"""The wheel and the sdist: what is in them, and what they answer in an environment that has nothing else."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from lightning_cifake.shipped import CARD, DEFAULT, MODELS

ROOT = Path(__file__).parents[1]
MOST_MB = 400  # of an environment with the package and what it brings, pip included
RELEASED = {CARD, *(name for each in MODELS.values() for name in (each.file, f"{Path(each.file).stem}.json"))}
TEMPLATES = sorted((ROOT / "lightning_cifake" / "assessment" / "templates").iterdir())
SHIPPED = {
    "lightning_cifake/py.typed",
    *(f"lightning_cifake/assessment/templates/{path.name}" for path in TEMPLATES),
    "lightning_cifake/configs/networks/meso4.yaml",
    "lightning_cifake/configs/published.yaml",
    "lightning_cifake/data/cifake_manifest.npz",
    "lightning_cifake/deploy/reference_images.npz",
    *(f"lightning_cifake/released/{name}" for name in RELEASED),
}


def test_every_room_of_the_package_is_one_that_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {path.parent.relative_to(ROOT) for path in (ROOT / "lightning_cifake").rglob("__init__.py")}
    mapped = set(settings["package-dir"])
    assert set(settings["packages"]) - mapped == {".".join(room.parts) for room in rooms}
    assert mapped <= set(settings["packages"])


@pytest.fixture(scope="module")
def built(module_folder: Callable[[str], Path]) -> dict[str, Path]:
    """The sdist of what git knows here, and the wheel that is built from the sdist alone."""
    folder = module_folder("built")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "checkout" / name)
    run([sys.executable, "-m", "build", "--outdir", str(folder / "dist"), "checkout"], folder)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def run(command: list[str], folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """In a folder of its own, without what this environment tells Python about itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "LIGHTNING_CIFAKE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.long
def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = set(archive.namelist())
    assert names >= SHIPPED
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lightning_cifake"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)


@pytest.mark.long
def test_the_sdist_holds_what_the_wheel_is_made_of_and_neither_tests_nor_records(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        parts = [name.split("/") for name in archive.getnames()]
    tops = {each[1] for each in parts if len(each) > 1}
    assert {"LICENSE", "README.md", "checkpoints", "configs", "lightning_cifake", "pyproject.toml"} <= tops
    assert not tops & {"docs", "examples", "parity_tests", "tests", "tf_reference"}
    assert {each[2] for each in parts if len(each) > 2 and each[1] == "checkpoints"} == RELEASED


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def environment(request: pytest.FixtureRequest, built: dict[str, Path], module_folder) -> Iterator[Path]:
    """An environment with nothing but the package; a folder beside it has an image. It goes when it has been tried."""
    folder = module_folder(request.param)
    run([sys.executable, "-m", "venv", "venv"], folder)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    run([*pip, str(built[request.param])], folder)
    Image.new("RGB", (32, 32), (200, 30, 30)).save(folder / "photo.png")
    yield folder / "venv"
    shutil.rmtree(folder)


@pytest.mark.long
def test_installed_alone_it_answers_and_names_the_extra_that_the_rest_needs(environment: Path) -> None:
    folder, command = environment.parent, str(environment / "bin" / "lightning-cifake")
    assert "published" in run([command, "--help"], folder).stdout
    answered = run([command, "predict", "photo.png"], folder)
    path, verdict, prob_real = answered.stdout.rstrip("\n").split("\t")
    assert path == "photo.png" and verdict == ("REAL" if float(prob_real) > 0.5 else "AI")
    assert f"the released {MODELS[DEFAULT].file}" in answered.stderr
    for name, model in MODELS.items():
        (released,) = environment.glob(f"lib/python*/site-packages/lightning_cifake/released/{model.file}")
        assert f"verified: {released}" in run([command, "verify", name], folder).stdout
        run([command, "predict", "photo.png", "--model", name], folder)
    for asked in (["fit"], ["export", "--ckpt_path", "a.ckpt", "--output", "a.onnx"], ["benchmark"]):
        said = run([command, *asked], folder, code=2).stderr.splitlines()
        assert len(said) == 1 and said[0].endswith("pip install 'lightning_cifake[train]'"), said
    program = f"""
from lightning_cifake import Detector
(answer,) = Detector().predict(["photo.png"])
assert f"{{answer.prob_real:.6f}}" == {prob_real!r}
try:
    from lightning_cifake import FakeImageClassifier
except ImportError as error:
    print(error)
try:
    import tf_reference
except ModuleNotFoundError:
    print("no tf_reference")
"""
    printed = run([str(environment / "bin" / "python"), "-c", program], folder).stdout.splitlines()
    assert printed[0].startswith("lightning_cifake.FakeImageClassifier needs ") and printed[1:] == ["no tf_reference"]
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < MOST_MB * 10**6
