"""What a public forge reads (.github, .pre-commit-config.yaml) is well formed and names what there is."""

import csv
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW: dict[Any, Any] = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PRE_COMMIT: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
LISTS = [
    PROJECT["dependencies"],
    *(PROJECT["optional-dependencies"][extra] for extra in ("train", "evaluate", "tf", "hub", "dev")),
]


def made(command: str, matrix: dict[str, Any]) -> str:
    """A step's command with the matrix's values filled in."""
    return re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda found: str(matrix[found[1]]), command)


def jobs() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name, job, one row of its matrix) of each job that is started."""
    started = []
    for name, job in WORKFLOW["jobs"].items():
        matrix = job.get("strategy", {}).get("matrix", {})
        rows = matrix.get("include") or [{key: one} for key, values in matrix.items() for one in values] or [{}]
        started += [(name, job, row) for row in rows]
    return started


def test_each_job_calls_a_target_of_the_makefile_on_a_python_that_it_set_up() -> None:
    for name, job, row in jobs():
        *before, last = job["steps"]
        assert [step["uses"].split("@")[0] for step in before] == ["actions/checkout", "actions/setup-python"], name
        python = made(before[-1]["with"]["python-version"], row)
        assert tuple(map(int, python.split("."))) >= (3, 11), name
        program, target, argument = made(last["run"], row).split()
        assert (program, argument) == ("make", "PYTHON=python") and target in TARGETS, last["run"]
        assert job["timeout-minutes"] > 0, name


def test_a_change_is_linted_and_tested_on_the_oldest_and_the_newest_versions() -> None:
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key `on` so
    assert {"push", "pull_request", "schedule"} <= set(triggers)
    fast = [row for name, _, row in jobs() if name == "fast"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert {"python": oldest, "target": "test-oldest"} in fast
    assert {"parity-oldest", "parity"} <= {row["target"] for row in fast if row["python"] == oldest}
    newest = max(fast, key=lambda row: tuple(map(int, row["python"].split("."))))
    assert newest["target"] == "test-fast" and newest["python"] != oldest
    assert any(made(job["steps"][-1]["run"], row).split()[1] == "lint" for _, job, row in jobs())


def test_all_tests_and_the_long_ones_run_by_the_week_only() -> None:
    weekly = [(job, made(job["steps"][-1]["run"], row).split()[1]) for name, job, row in jobs() if name == "weekly"]
    assert [target for _, target in weekly] == ["test", "long", "evaluate"]
    assert all("schedule" in job["if"] for job, _ in weekly)
    (schedule,) = WORKFLOW[True]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", schedule["cron"])  # one day of the week


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_each_issue_form_has_what_the_forge_asks_for(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"] and isinstance(form["labels"], list)
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert ids and len(ids) == len(set(ids))
    for part in form["body"]:
        assert part["type"] in {"markdown", "input", "textarea", "dropdown", "checkboxes"}
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"]
        if part["type"] in ("dropdown", "checkboxes"):
            assert part["attributes"]["options"]


def test_there_is_a_form_for_each_thing_that_is_asked() -> None:
    assert {path.stem for path in FORMS} == {"bug", "feature", "wrong-answer"}
    assert "## Shown by" in (GITHUB / "pull_request_template.md").read_text()


@pytest.mark.parametrize(
    "path", [*FORMS, GITHUB / "pull_request_template.md", ROOT / ".pre-commit-config.yaml"], ids=lambda path: path.name
)
def test_the_files_and_targets_that_a_template_names_exist(path: Path) -> None:
    text = path.read_text()
    for name in re.findall(r"\b(?:\w+/)*[A-Z_]+\.md\b", text):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert target in TARGETS, target


def test_the_hooks_are_ruff_mypy_and_codespell_each_at_one_version() -> None:
    hooks = {hook["id"]: entry for entry in PRE_COMMIT["repos"] for hook in entry["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "mypy", "codespell"}
    for entry in PRE_COMMIT["repos"]:
        assert re.fullmatch(r"v\d+\.\d+\.\d+", entry["rev"]), entry["repo"]
    lint = MAKEFILE.split("\nlint:")[1].split("\n\n")[0]
    assert all(program in lint for program in ("ruff check", "ruff format --check", "mypy", "codespell"))


def lower_bounds() -> dict[str, str]:
    found = {}
    for requirement in (line for lines in LISTS for line in lines):
        match = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", requirement)
        if match:
            found[match[1].lower()] = match[2]
    return found


def padded(version: str) -> tuple[int, ...]:
    numbers = tuple(map(int, version.split(".")))
    return numbers + (0,) * (4 - len(numbers))


# no dependency of the program, of its training or of its tests: make test-oldest does without them
TOOLS = {
    "ruff",
    "mypy",
    "import-linter",
    "codespell",
    "pre-commit",
    "build",
    "mkdocs",
    "mkdocs-material",
    "mkdocstrings",
    "httpx",
    "h11",
    "schemathesis",
    "nbclient",
    "ipykernel",
}


def test_the_oldest_versions_are_the_lower_bounds_of_pyproject() -> None:
    text = (GITHUB / "constraints-oldest.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    bounds = {name: bound for name, bound in lower_bounds().items() if name not in TOOLS}
    assert set(pinned) == set(bounds)
    for name, bound in bounds.items():
        assert padded(pinned[name]) == padded(bound), f"{name}: pyproject.toml says {bound}, tested is {pinned[name]}"


@pytest.mark.parametrize("stamp", [".installed", ".installed-tf"])
def test_the_makefile_installs_the_oldest_versions_with_those_constraints(stamp: str) -> None:
    rule = MAKEFILE.split(f"$(OLDEST)/{stamp}: ")[1].split("\n\n")[0]
    assert "-c .github/constraints-oldest.txt" in rule


@pytest.mark.parametrize(
    ("target", "stamp"), [("parity-oldest", "$(OLDEST)/.installed-tf"), ("parity", "$(VENV)/.installed-all")]
)
def test_both_sets_of_versions_are_written_down_by_the_same_command(target: str, stamp: str) -> None:
    needs, command = MAKEFILE.split(f"\n{target}: ")[1].split("\n\n")[0].split("\n\t")
    assert needs == stamp
    assert command.endswith(" -m parity_tests --versions")
    assert ("$(OLDEST)/bin/python" in command) == (target == "parity-oldest")
    extras = MAKEFILE.split(f"{stamp}: ")[1].split("\n\n")[0]
    assert re.search(r"-e '\.\[[\w,]*\btf\]'", extras)


def test_parity_was_run_on_the_lower_bounds_and_no_claim_failed() -> None:
    with (ROOT / "docs" / "parity" / "versions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bounds = lower_bounds()
    for name in ("tensorflow", "keras", "torch", "lightning", "numpy"):
        assert padded(rows[0][name]) == padded(bounds[name]), name
        assert padded(rows[-1][name]) >= padded(bounds[name]), name
    assert len(rows) > 1
    for row in rows:
        assert (row["fail"], row["seen"]) == ("0", row["faults"])
        assert int(row["hold"]) + int(row["skipped"]) == int(row["claims"])


def test_the_tests_on_the_oldest_versions_are_there() -> None:
    (tested,) = re.findall(r"^OLDEST_TESTS := (.+)$", MAKEFILE, re.MULTILINE)
    assert all((ROOT / path).exists() for path in tested.split())
