"""Every block of the pages runs, or is parsed by what would run it."""

import contextlib
import io
import re
import runpy
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from PIL import Image

import lightning_cifake
from lightning_cifake.commands import main as cli
from lightning_cifake.commands.configurations import shipped_configs
from lightning_cifake.commands.parsing import parse
from lightning_cifake.errors import UserError
from lightning_cifake.shipped import released_model
from tests.docs.blocks import PAGES, ROOT, Block, blocks, commands, ours

RELEASED = released_model()
OTHER_PROGRAMS = {"npm", "node", "ray", "cat", "cd", "find", "git", "source", "pre-commit", "curl", "docker"}
BLOCKS = blocks()
COMMAND_LINES = [
    pytest.param(words, id=f"{block.page}: {' '.join(words)[:60]}")
    for block in BLOCKS
    if block.language in ("", "console", "bash")
    for words in commands(block)
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of what LightningCLI itself calls


@cache
def help_of(command: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    return said.getvalue()


def flags_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])(--[a-z][\w.-]*\w)", text))


@pytest.mark.parametrize("words", COMMAND_LINES)
def test_every_command_line_is_one_that_its_program_takes(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for block in BLOCKS:
        if block.title == "my_network.py":  # which command lines name
            (tmp_path / block.title).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    arguments = ours(words)
    if arguments is not None:
        check_ours(arguments, capsys)
    elif words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(words[1:]) <= targets
    elif words[0] == "pip":
        assert words[1] == "install"
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [each for word in words for each in re.findall(r"\.\[([\w,]+)\]", word)]
        assert set(",".join(named).split(",")) - {""} <= set(extras)
    elif words[0] == "pytest":
        assert all((ROOT / path).exists() for path in words[1:] if "/" in path)
    elif words[0] == "python" and words[1] == "-m":
        check_module(words[2], words[3:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), words[1]
        assert flags_of(" ".join(words[2:])) <= {*flags_of((ROOT / words[1]).read_text()), "--help"}
    else:
        assert words[0] in OTHER_PROGRAMS


def check_ours(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    """Parsed to the last value, by the parser that would read it; nothing is opened."""
    command, rest = arguments[0], arguments[1:]
    if command == "--help":
        return
    assert command in cli.COMMANDS
    if "--help" in rest:
        assert rest == ["--help"]
    elif cli.COMMANDS[command].module == cli.LIGHTNING:
        with contextlib.suppress(SystemExit):
            assert cli.main([command, *rest, "--print_config"]) == 0
        configuration = yaml.safe_load(capsys.readouterr().out)
        assert configuration["data"] and configuration["model"]
    else:
        module = import_module(f"lightning_cifake.commands.{cli.COMMANDS[command].module}")
        parse(command, module.add_arguments, rest)


@pytest.mark.parametrize("line", ["predict --modle x.onnx a.jpg", "fit --data.rot demo", "fit --config cleen", "fits"])
def test_a_slip_in_a_command_line_is_seen(line: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises((AssertionError, UserError)):
        check_ours(line.split(), capsys)


def check_module(module: str, arguments: list[str]) -> None:
    source = ROOT / module.replace(".", "/")
    file = source / "__main__.py" if source.is_dir() else source.with_suffix(".py")
    assert file.is_file(), module
    known = "".join(path.read_text() for path in ([*source.glob("*.py")] if source.is_dir() else [file]))
    assert flags_of(" ".join(arguments)) <= {*flags_of(known), "--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_and_configurations_that_the_prose_names_exist(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", prose)
    known = set().union(*(flags_of(help_of(command)) for command in cli.COMMANDS), *map(flags_of, other_flags()))
    assert set().union(*(flags_of(span) for span in spans if span.startswith("--"))) <= known
    assert {name for span in spans for name in re.findall(r"--config ([\w/]+)", span)} <= set(shipped_configs())


def other_flags() -> list[str]:
    """Sources that spell flags which no --help of ours lists: other programs', and a network's own arguments."""
    programs = [*ROOT.glob("parity_tests/*.py"), *ROOT.glob("tf_reference/*.py"), *ROOT.glob("examples/*/*.py")]
    programs.append(ROOT / "lightning_cifake/benchmark/minutes.py")
    own = ["--model.network", "--model.network.width", "--model.network.layout"]
    own += ["--model.network.freeze_backbone", "--help"]
    return [path.read_text() for path in programs] + own


def python_blocks(page: str) -> list[Block]:
    return [block for block in BLOCKS if block.page == page and block.language == "python"]


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=block.page) for block in BLOCKS if block.language == "python"]
)
def test_every_block_of_python_compiles(block: Block) -> None:
    compile(block.text, block.page, "exec")


def test_every_block_of_python_is_run_by_a_test_here_or_says_that_it_is_not() -> None:
    run = {block.page for block in BLOCKS if block.language == "python" and block.run and "examples" not in block.page}
    assert run <= {
        "CONTRIBUTING.md",
        "checkpoints/MODEL_CARD.md",
        "README.md",
        "docs/python.md",
        "docs/export.md",
        "docs/figures-of-evaluation.md",
        "docs/networks.md",
    }


@pytest.mark.parametrize("page", ["README.md", "docs/export.md", "checkpoints/MODEL_CARD.md"])
def test_asking_runs_as_it_stands(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (block,) = python_blocks(page)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / RELEASED.name).symlink_to(RELEASED)
    for name in ("photo.jpg", "other.png"):
        Image.new("RGB", (32, 32), "teal").save(name)
    (tmp_path / "ask.py").write_text(block.text)
    runpy.run_path("ask.py")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["photo.jpg", "other.png"]
    assert all(re.match(r"\S+ (AI|REAL|UNCERTAIN) 0\.\d+ ", line) for line in lines)


def test_figures_are_asked_for_as_the_page_does(capsys: pytest.CaptureFixture) -> None:
    (block,) = python_blocks("docs/figures-of-evaluation.md")
    exec(compile(block.text, block.page, "exec"), {})
    assert capsys.readouterr().out.startswith("0.75 [0.")


def test_the_tour_of_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tour,) = python_blocks("docs/python.md")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tour.py").write_text(tour.text)
    left = runpy.run_path("tour.py")
    assert len(left["model"].history) == 1
    assert sum(left["data"].split.sizes().values()) == 400
    assert Path("checkpoints/tour/best.ckpt").is_file()
    assert "accuracy" in capsys.readouterr().out


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    for name in lightning_cifake.__all__:
        assert getattr(lightning_cifake, name).__name__ == name
        assert re.search(rf"^::: lightning_cifake\.[\w.]+\.{name}$", page, re.MULTILINE), name
