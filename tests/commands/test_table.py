"""The table of commands: each has its module, its help and its examples; one spelling of flags; the right names."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lightning_cifake.commands.arguments import DATA_CLASSES, DATA_ROOT, MAX_LOSS
from lightning_cifake.commands.main import COMMANDS, LIGHTNING, main, overview
from lightning_cifake.commands.parsing import Parser, make_parser, parse
from lightning_cifake.commands.recorded_help import recorded
from lightning_cifake.errors import UserError
from lightning_cifake.spelling import closest

ROOT = Path(__file__).parents[2]
OURS = sorted(name for name, command in COMMANDS.items() if command.module != LIGHTNING)
LIGHTNINGS = sorted(set(COMMANDS) - set(OURS))


def module_of(name: str):
    return import_module(f"lightning_cifake.commands.{COMMANDS[name].module}")


def parser_of(name: str) -> Parser:
    return make_parser(name, module_of(name).add_arguments)


def flags_of(parser: Parser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def examples(text: str) -> Iterator[list[str]]:
    """The command lines in a help, as the words behind the program's name; what explains them stands behind spaces."""
    for line in re.findall(r"python -m lightning_cifake (.*)", text.partition("\nexamples:\n")[2]):
        words = shlex.split(re.split(r"\s{3,}| \| | > ", line)[0])
        yield words


def test_every_command_has_a_module_a_line_in_the_overview_and_a_help_with_examples() -> None:
    for name, command in COMMANDS.items():
        assert callable(module_of(name).run)
        assert re.search(rf"^  {name} +{re.escape(command.help)}$", overview(), re.MULTILINE)
    for name in OURS:
        said = parser_of(name).format_help()
        assert said.startswith(f"usage: python -m lightning_cifake {name} ") and "\nexamples:\n" in said
        assert any(words[0] == name for words in examples(said)), name


def test_no_help_but_those_of_lightning_s_commands_needs_torch_and_each_is_there_within_a_second() -> None:
    script = f"""
import sys, time
from lightning_cifake.commands.main import main
main(["--help"])
seconds = time.process_time()  # the processor's, from the start of Python: a busy machine changes them little
print("OVERVIEW", seconds, sorted({{"torch", "lightning", "numpy", "jsonargparse"}} & set(sys.modules)))
for name in {OURS!r}:
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert not end.code
print("ALL", time.process_time(), sorted({{"torch", "lightning", "tensorflow", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    overview_line, all_line = (line for line in done.stdout.splitlines() if line.startswith(("OVERVIEW", "ALL ")))
    _, seconds, loaded = overview_line.split(" ", 2)
    assert loaded == "[]" and float(seconds) < 0.3
    _, seconds, loaded = all_line.split(" ", 2)
    assert loaded == "[]" and float(seconds) < 1  # all six of them together


@pytest.mark.parametrize("name", ["", *OURS])
def test_the_examples_of_a_help_are_command_lines_that_are_taken(name: str) -> None:
    said = parser_of(name).format_help() if name else overview()
    for words in examples(said):
        if words[0] in OURS:
            parse(words[0], module_of(words[0]).add_arguments, words[1:])
        else:
            assert words[0] in LIGHTNINGS


def test_the_examples_of_lightning_s_commands_are_taken(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_cifake.commands.lightning_about import ABOUT

    for words in [each for text in (*ABOUT.values(), overview()) for each in examples(text)]:
        if words[0] in LIGHTNINGS:
            with pytest.raises(SystemExit) as ended:
                main([*words, *([] if "--print_config" in words else ["--print_config"])])
            assert not ended.value.code
            assert yaml.safe_load(capsys.readouterr().out)["data"]


def test_every_flag_is_spelt_with_underscores() -> None:
    for name in OURS:
        assert [flag for flag in flags_of(parser_of(name)) if "-" in flag.lstrip("-")] == []
    added = re.compile(r'add_argument\(\s*((?:"-[^"]+",?\s*)+)([^\n]*)')
    sources = [*ROOT.glob("*/*.py"), *ROOT.glob("lightning_cifake/**/*.py"), *ROOT.glob("examples/**/*.py")]
    hyphens = [
        (path.relative_to(ROOT).as_posix(), flag)
        for path in sources
        for flags, rest in added.findall(path.read_text(encoding="utf-8"))
        for flag in re.findall(r'"-+([^"]+)"', flags)
        if "-" in flag and "_Renamed" not in rest
    ]
    assert len(sources) > 100 and hyphens == []


def test_fit_s_help_shows_flags_with_underscores_and_data_root_as_everywhere(
    workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m lightning_cifake fit [arguments]\n") and "\nexamples:\n  python" in said
    assert re.findall(r"^ +--[\w.]*-[\w.-]*", said, re.MULTILINE) == []
    words = " ".join(said.replace("`", "").split())
    assert DATA_ROOT in words and DATA_CLASSES in words
    assert "a network: resnet50, " in words and "known subclasses" not in words  # every class of torch


def test_data_root_means_the_same_in_every_command() -> None:
    for name in ("export", "verify", "benchmark"):
        words = " ".join(parser_of(name).format_help().split())
        assert f"--data.root ROOT {DATA_ROOT} (default: " in words, name


def test_defaults_that_the_help_repeats_are_those_of_the_code() -> None:
    from lightning_cifake.benchmark.measure import PARITY
    from lightning_cifake.deploy import verification
    from lightning_cifake.training.convert import Options

    assert MAX_LOSS == verification.MAX_LOSS
    assert parser_of("convert").get_defaults().lr_decay == Options().lr_decay
    assert f"differ by more than {PARITY:.0e}".replace("e-04", "e-4") in parser_of("benchmark").format_help()


@pytest.mark.parametrize("program", ["/usr/bin/lightning-cifake", "C:/env/Scripts/lightning-cifake.exe"])
def test_a_help_calls_the_program_as_it_was_called(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert main(["--help"]) == 0
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    said = capsys.readouterr().out
    assert "usage: lightning-cifake COMMAND" in said and "usage: lightning-cifake predict" in said
    assert "python -m" not in said


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("config: ")]
    assert len(said) == 1 and said[0].startswith("error: ") and said[0].isprintable(), said
    return said[0]


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ("predcit photo.jpg", "no such command: predcit; did you mean predict?"),
        ("Fit", "no such command: Fit; did you mean fit?"),
        ("--versoin", "no such command: --versoin; did you mean --version?"),
        ("predict photo.jpg --modle m.onnx", "no such flag: --modle; did you mean --model?"),
        ("predict photo.jpg --jso", "no such flag: --jso; did you mean --json?"),
        ("verify m.onnx --root x", "no such flag: --root; did you mean --data.root?"),
        ("export --ckpt a --output b.onnx", "did you mean --ckpt_path?"),
        ("export --ckpt_path a --output b.onnx --precision int9", "got int9; did you mean int8?"),
        ("benchmark --task trian", "--task: expected one of all, train, answer, got trian; did you mean train?"),
        ("benchmark --engines torhc", "got torhc; did you mean torch?"),
        ("fit --config offical", "got offical; did you mean official?"),
    ],
)
def test_a_misspelt_name_is_met_with_the_right_one(
    arguments: str, right: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert right in one_line(arguments.split(), capsys)


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ("fit --lerning_rate 1e-3", "no such flag: --lerning_rate; did you mean --model.learning_rate?"),
        pytest.param(
            "test --ckpt_path x --data.protokol a",
            "no such flag: --data.protokol; did you mean --data.protocol?",
            marks=pytest.mark.skipif(
                recorded() is None, reason="recorded with other versions: the checkpoint is first"
            ),
        ),
        ("fit --max_epoch=3", "no such flag: --max_epoch; did you mean --trainer.max_epochs?"),
        ("fit --data.batch-size 16", "no such flag: --data.batch-size; did you mean --data.batch_size?"),
        ("fit --data.protocol offical", "got offical; did you mean official?"),
    ],
)
def test_a_misspelt_name_is_met_with_the_right_one_by_lightning_s_commands(
    arguments: str, right: str, workplace: Path, tiny_network: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert right in one_line(arguments.split(), capsys)


@pytest.mark.parametrize(
    ("arguments", "now"),
    [
        ("predict photo.jpg --batch-size 4", "--batch_size"),
        ("benchmark --batch-size 32", "--batch_size"),
        ("benchmark --tuned-batch-size 32", "--tuned_batch_size"),
        ("benchmark --train-images 512", "--train_images"),
        ("download --root data", "--output"),
    ],
)
def test_a_flag_of_version_0_1_is_refused_with_its_new_spelling(
    arguments: str, now: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = one_line(arguments.split(), capsys)
    assert re.search(rf"no such flag: --\S+(; did you mean|, which is called) {now}( now|\?)", said), said
    assert not list(workplace.iterdir())


def test_tf_reference_takes_its_old_spellings_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    from tf_reference.__main__ import _parser

    new = _parser().parse_args(["fit", "--data.root", "x", "--lr_decay", "0.5", "--initial_epoch", "2"])
    assert not capsys.readouterr().err
    assert _parser().parse_args(["fit", "--data", "x", "--lr-decay", "0.5", "--initial-epoch", "2"]) == new
    assert capsys.readouterr().err.splitlines() == [
        "note: --lr-decay is called --lr_decay now",
        "note: --initial-epoch is called --initial_epoch now",
    ]


@pytest.mark.parametrize("name", OURS)
def test_what_a_parser_refuses_is_one_line_of_harmless_characters(
    name: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = "\x1b[31m\n\u202e"
    positional = {"predict": ["a"], "verify": ["a"], "convert": ["a", "b"], "report": ["a"]}.get(name, [])
    refused = [[f"--nosuch{odd}", "1"], [f"--nosuch={odd}"], [*positional, odd, f"-{odd}"]]
    for action in parser_of(name)._actions:
        flag = action.option_strings[-1] if action.option_strings else ""
        if flag and action.nargs is None and flag not in ("--help", "--version"):
            refused.append([*positional, flag])  # and no value
        if action.choices or "Literal" in str(getattr(action, "_typehint", "")):
            refused.append([*positional, flag, odd])
    for arguments in refused:
        one_line([name, *arguments], capsys)
    assert not list(workplace.iterdir())


def test_a_value_may_begin_with_a_minus_and_a_digit() -> None:
    for given in (["--pixels", "-1-1"], ["--pixels=-1-1"]):
        assert parse("convert", module_of("convert").add_arguments, ["a", "b", *given]).pixels == "-1-1"


def test_a_command_s_arguments_can_lie_in_a_file_whose_paths_are_those_of_the_command_line(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "mine").mkdir()
    (workplace / "mine" / "answers.yaml").write_text("model: models/m.onnx\nbatch_size: 4\njson: true\n")
    add = module_of("predict").add_arguments
    options = parse("predict", add, ["photo.jpg", "--config", "mine/answers.yaml", "--batch_size", "8"])
    assert (options.model, options.batch_size, options.json) == ("models/m.onnx", 8, True)
    with pytest.raises(SystemExit):
        main(["predict", "photo.jpg", "--config", "mine/answers.yaml", "--print_config"])
    (workplace / "again.yaml").write_text(capsys.readouterr().out)
    again = parse("predict", add, ["photo.jpg", "--config", "again.yaml"])
    assert (again.model, again.batch_size) == ("models/m.onnx", 4)


def test_a_file_of_arguments_is_refused_in_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "unknown.yaml").write_text("modle: m.onnx\n")
    (workplace / "huge.yaml").write_text("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ))  # fmt: skip
    (workplace / "both.yaml").write_text("ckpt_path: a.ckpt\n")
    for name, says in (("unknown", "modle"), ("huge", "values"), ("nowhere", "expected a YAML file, got nowhere")):
        path = f"{name}.yaml" if (workplace / f"{name}.yaml").exists() else name
        assert says in one_line(["predict", "photo.jpg", "--config", path], capsys)
    both = ["predict", "photo.jpg", "--model", "m.onnx", "--config", "both.yaml"]
    assert "expected --model or --ckpt_path, got both" in one_line(both, capsys)


def test_a_right_name_is_near_and_a_far_one_is_none() -> None:
    names = ["--model.learning_rate", "--data.root", "--data.rotation", "--root_dir"]
    assert closest("--lerning_rate", names) == "--model.learning_rate"
    assert closest("--learning-rate", names) == "--model.learning_rate"
    assert closest("--modle.learning_rate", names) == "--model.learning_rate"
    assert closest("--DATA.ROOT", names) == "--data.root"
    assert closest("--nothing_like_it", names) is None
    assert closest("", names) is None
    assert closest("mseo4", ["networks/meso4", "clean"]) == "networks/meso4"


def test_too_many_values_are_told_from_an_unknown_flag() -> None:
    with pytest.raises(UserError, match=r"^not expected: b\.jpg: expected all PATHs side by side"):
        parse("predict", module_of("predict").add_arguments, ["a.jpg", "--json", "b.jpg"])
    with pytest.raises(UserError, match=r"^not expected: c \(convert --help lists the arguments\)$"):
        parse("convert", module_of("convert").add_arguments, ["a", "b", "c"])


def test_help_of_a_command_can_be_asked_for_in_front_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["help", "predict"])
    assert capsys.readouterr().out.startswith("usage: python -m lightning_cifake predict ")
