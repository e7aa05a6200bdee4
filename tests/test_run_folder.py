"""A run's folder has one writer, is made by who gets it, and its configuration is read back without being trusted."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_cifake.errors import UserError
from lightning_cifake.files import FileLock
from lightning_cifake.run_folder import RunFolder, next_number, read_config, sealed_config

CLAIM = """
import sys, time
from pathlib import Path
from lightning_cifake.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), numbered=True)
print("ready", flush=True)
sys.stdin.readline()
folder.claim()
print(folder.path.name, flush=True)
sys.stdin.readline()
"""


def test_processes_that_chose_the_same_number_get_folders_of_their_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIM, str(tmp_path / "runs" / "demo" / "1")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
    names = [process.stdout.readline().strip() for process in processes if process.stdout]
    for process in processes:
        process.communicate("end\n", timeout=30)
    assert sorted(names) == ["1", "2", "3", "4"]


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run", resumed=True)
    first.claim()
    with pytest.raises(UserError, match="run is in use by another process"):
        second.claim()
    first.release()
    second.claim()
    second.release()
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt", "config.yaml", "split.json", "metrics.json"])
def test_a_folder_that_holds_a_run_is_refused_with_what_can_be_done(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("kept")
    for ask in (RunFolder(tmp_path).check, RunFolder(tmp_path).claim):
        with pytest.raises(UserError, match=r"holds a run already .*--output_dir, or give --overwrite") as refused:
            ask()
        assert ("fit --ckpt_path" in str(refused.value)) == (name == "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_overwriting_removes_the_runs_own_files_and_no_others(tmp_path: Path) -> None:
    for name in ("best.ckpt", "metrics.json", "thesis.txt"):
        (tmp_path / name).write_text("")
    folder = RunFolder(tmp_path, overwrite=True)
    folder.claim()
    folder.release()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_was_made_for_nothing_goes_and_one_with_a_checkpoint_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "demo" / "1", numbered=True)
    folder.claim()
    (folder.path / "config.yaml").write_text("")
    folder.give_back()
    assert not list(tmp_path.iterdir())
    folder.claim()
    (folder.path / "last.ckpt").write_text("")
    folder.give_back()
    assert (folder.path / "last.ckpt").exists()
    folder.release()


def test_a_folder_that_was_there_before_is_not_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim()
    folder.give_back()
    folder.release()
    assert tmp_path.is_dir()


def test_the_next_number_is_above_every_one_that_is_taken(tmp_path: Path) -> None:
    for name in ("1", "7", "notes", "²"):
        (tmp_path / name).mkdir()
    assert next_number(tmp_path) == tmp_path / "8"
    assert next_number(tmp_path / "none").name == "1"


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path: Path) -> None:
    one, two, three = (FileLock(tmp_path / ".lock") for _ in range(3))
    assert one.acquire() and not two.acquire()
    one.release(remove=True)
    assert two.acquire() and not three.acquire()
    two.release(remove=True)
    assert not list(tmp_path.iterdir())


# config.yaml

CONTENT = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 8, "precision": "32-true", "strategy": "auto", "logger": None, "callbacks": None},
    "model": {
        "network": {"class_path": "lightning_cifake.networks.ResNet50Detector", "init_args": {"layout": "torchvision"}},
        "learning_rate": 0.001,
    },
    "data": {"root": "demo", "seed": 0, "sample": None},
    "patience": 8,
    "test_at_end": True,
    "ckpt_path": None,
    "optimizer": None,
}


def write(folder: Path, content: object, seal: bool = False) -> Path:
    text = yaml.safe_dump(content, sort_keys=False)
    (folder / "config.yaml").write_text(sealed_config(text) if seal else text)
    return folder


def refused(folder: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        read_config(folder)
    assert "\n" not in str(error.value) and "config.yaml" in str(error.value)


def test_what_a_run_wrote_is_read_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = read_config(write(tmp_path, CONTENT, seal=True))
    assert config is not None and config.sealed and not caplog.text
    assert config.values["data"] == CONTENT["data"]
    assert config.values["model"] == {"learning_rate": 0.001}  # which network it is, is the checkpoint's to say
    assert config.values["trainer"] == {"max_epochs": 8, "precision": "32-true", "strategy": "auto"}
    assert config.values["patience"] == 8 and "ckpt_path" not in config.values
    only = read_config(tmp_path, ("data",))
    assert only is not None and only.values == {"data": CONTENT["data"]}
    assert read_config(tmp_path / "elsewhere") is None


def test_one_without_a_digest_is_read_and_said_to_be_unchecked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = read_config(write(tmp_path, CONTENT))
    assert config is not None and not config.sealed
    assert "config.yaml carries no digest" in caplog.text


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, CONTENT, seal=True)
    expected = read_config(tmp_path)
    whole = (tmp_path / "config.yaml").read_bytes()
    rng = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "config.yaml").write_bytes(damaged)
        try:
            config = read_config(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert config is not None and expected is not None and config.values == expected.values


def test_an_edited_one_is_refused_with_how_to_take_it(tmp_path: Path) -> None:
    write(tmp_path, CONTENT, seal=True)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 8", "max_epochs: 9"))
    refused(tmp_path, r"is not what the run wrote: it was changed, or is damaged; .* name it: --config .*config\.yaml")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "got nothing"),
        (b"# only words\n", "got nothing"),
        (b"- 1\n- 2\n", "got list"),
        (b"2026-11-25\n", "got date"),
        (b"just words", "got str"),
        (b"data: \xff\xfe\n", "no UTF-8"),
        (b"data: [1", "no YAML that can be read"),
        (b"data: {a: 1, a: 2}", "a stands in it twice"),
        (b"data: !!python/object/apply:os.system [ls]", "no YAML that can be read"),
        (b"1: 2", "keys that are no text"),
        (b"data: 2026-99-99", "no YAML that can be read"),
        (b"data: [1, 2]", "names and values under data"),
        (b"data: other.yaml", "names and values under data"),
        (BOMB.encode(), "more than 100,000 values"),
        (b"data: &a {b: *a}", "within what it names|no YAML"),
        (b"data: " + b"[" * 5000, "no YAML that can be read"),
        (b"data: {seed: " + b"9" * 6000 + b"}", "no YAML that can be read"),
        (b"a" * (2**20 + 1), "expected at most"),
    ],
    ids=range(18),
)
def test_what_is_no_configuration_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    refused(tmp_path, says)


@pytest.mark.parametrize(
    "named",
    [
        {"trainer": {"callbacks": [{"class_path": "evil.Callback"}]}},
        {"trainer": {"callbacks": "evil.Callback"}},
        {"trainer": {"logger": "evil.Logger"}},
        {"trainer": {"profiler": "evil.Profiler"}},
        {"trainer": {"plugins": ["evil.Plugin"]}},
        {"trainer": {"strategy": "evil.Strategy"}},
        {"trainer": {"strategy": {"class_path": "evil.Strategy"}}},
        {"trainer": {"accelerator": "evil.Accelerator"}},
        {"model": {"class_path": "evil.Model"}},
        {"model": {"head": {"class_path": "evil.Head"}}},
        {"data": {"root": {"class_path": "evil.Data"}}},
        {"optimizer": {"class_path": "evil.Optimizer"}},
        {"lr_scheduler": "evil.Schedule"},
        {"evil": "evil.Anything"},
    ],
)
def test_what_names_code_is_refused_unless_it_is_asked_for(tmp_path: Path, named: dict[str, dict[str, object]]) -> None:
    write(tmp_path, {**CONTENT, **named}, seal=True)
    refused(tmp_path, r"which is more than the plain values .*name it: --config")
