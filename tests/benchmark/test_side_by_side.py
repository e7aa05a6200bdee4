"""Records of several machines on one page, of made ratios; what a machine and its record are called."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt  # rich's own reader of Markdown
from PIL import Image

from lightning_cifake.benchmark.comparisons import Comparison, terms
from lightning_cifake.benchmark.figures import pairwise, spread
from lightning_cifake.benchmark.page import page
from lightning_cifake.benchmark.processors import features, folder_name, title
from lightning_cifake.benchmark.record import add_record
from lightning_cifake.benchmark.side_by_side import groups, overview, range_text, ratios_table, read_records
from lightning_cifake.errors import UserError

RATES = {
    "tf": [100.0, 100.0],
    "tf-tuned-small": [120.0, 160.0],
    "tf-tuned": [200.0, 200.0],
    "lightning": [150.0, 190.0],
}
TRAINING = Comparison("lightning", "tf")


def made(machine: dict[str, Any] | None = None, times: float = 1.0, **settings: Any) -> dict[str, Any]:
    """A record of four engines that train; ``times`` is how many times RATES Lightning reaches."""
    rates = {**RATES, "lightning": [times * each for each in RATES["lightning"]]}
    sizes = {"tf": 32, "tf-tuned-small": 32, "tf-tuned": 128, "lightning": 32}
    nothing = {"cold_start_s": None, "one_image_ms": None, "peak_mib": None}
    answering = {**nothing, "images_per_second": dict.fromkeys(("1", "32", "256"))}
    training = {"start_to_first_step_s": None, "first_epoch_s": None, "waiting_share": None, "peak_mib": None}
    return {
        "date": "2026-11-24",
        "machine": {"processor": "AMD EPYC", "cores": 2, "features": ["avx2"], "gpu": None, **(machine or {})},
        "versions": {"torch": "2.14.1"},
        "command": "benchmark",
        "settings": {
            "threads": 2, "device": "cpu", "precision": "32-true", "batch_size": 32, "tuned_batch_size": 128,
            "rounds": 2, "starts": 1, "train_images": 256, "weights": "w", "batch_sizes": sizes, **settings,
        },
        "engines": {
            name: {"training": {**training, "images_per_second": spread(each)}, "answering": answering, "limit": {}}
            for name, each in rates.items()
        },
        "failed": {},
        "ratios": {"training": pairwise(rates), "answering_32": {}},
        "parity": None,
        "half_differences": {},
        "agreement": {"images": 0, "accuracy": {}, "disagreeing": 0, "listed": []},
        "limit": {},
        "raw": {},
        "seconds": 1.0,
    }  # fmt: skip


NEW = {"features": ["avx512", "bf16", "vnni"]}
GPU = {"gpu": {"name": "NVIDIA H100", "memory_gib": 79.1, "capability": "9.0", "cuda": "13.0"}}


def test_each_machine_and_precision_has_a_folder_of_its_own() -> None:
    names = [
        folder_name(made()),
        folder_name(made(NEW)),
        folder_name(made(NEW, precision="bf16-mixed")),
        folder_name(made(GPU, device="cuda")),
    ]
    assert names == [
        "amd-epyc-2-cores-avx2",
        "amd-epyc-2-cores-avx512-bf16-vnni",
        "amd-epyc-2-cores-avx512-bf16-vnni-bf16-mixed",
        "nvidia-h100",
    ]
    assert title(made(NEW)) == "AMD EPYC, 2 cores (AVX512, bf16, VNNI)" and title(made(GPU)) == "NVIDIA H100"
    assert folder_name(made({"processor": "../<b>", "cores": 1, "features": []})) == "b-1-cores"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("flags\t\t: fpu sse avx avx2 fma\n", ["avx2"]),
        ("flags : avx2 avx512f avx512_bf16 avx512_vnni\n", ["avx512", "bf16", "vnni"]),
        ("flags : avx2 avx512f avx512_fp16 amx_tile amx_bf16 amx_int8\n", ["avx512", "amx", "bf16", "fp16", "vnni"]),
        ("Features : fp asimd asimdhp asimddp bf16\n", ["neon", "bf16", "fp16", "vnni"]),
        ("nothing\n", []),
    ],
)
def test_a_processors_features_are_what_linux_tells(told: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name : X\n{told}")
    assert features(tmp_path / "cpuinfo") == expected
    assert features(tmp_path / "none") == []


def test_terms_are_equal_where_batch_and_precision_are() -> None:
    record = made()
    assert terms(record, TRAINING) == terms(record, Comparison("lightning", "tf-tuned-small")) == "yes"
    assert terms(record, Comparison("lightning", "tf-tuned")) == "no: batches of 32 against 128"
    int8 = Comparison("onnxruntime-int8", "tf", "answering_32")
    assert terms(record, int8) == "no: int8 against float32"
    assert terms(made(precision="bf16-mixed"), int8) == "no: int8 against bf16-mixed"
    assert terms(made(precision="bf16-mixed"), Comparison("lightning", "tf", "answering_32")) == "yes"


def test_two_processors_stand_side_by_side_with_the_range() -> None:
    records = {"old": made(times=1.2), "new": made(NEW)}
    rows = ratios_table(records).splitlines()
    assert rows[0].endswith("| AMD EPYC, 2 cores (AVX2) | AMD EPYC, 2 cores (AVX512, bf16, VNNI) | range |")
    # lightning 150 and 190, or 1.2 times that, over 100 and 100; over 120 and 160; over 200 and 200
    assert (
        rows[2] == "| `lightning` | `tf` | training | yes | 2.04 (1.80 to 2.28) | 1.70 (1.50 to 1.90) | 1.70 to 2.04 |"
    )
    assert rows[3].endswith("| yes | 1.46 (1.43 to 1.50) | 1.22 (1.19 to 1.25) | 1.22 to 1.46 |")
    assert rows[4].startswith(
        "| `lightning` | `tf-tuned` | training | no: batches of 32 against 128 | 1.02 (0.90 to 1.14)"
    )
    assert len(rows) == 5
    del records["old"]["ratios"]["training"]["lightning"][
        "tf-tuned-small"
    ]  # a record from before there was such an engine
    assert ratios_table(records).splitlines()[3].endswith("| yes |  | 1.22 (1.19 to 1.25) | 1.22 |")
    assert not ratios_table({"new": records["new"]}).splitlines()[0].endswith("range |")


def test_a_range_is_one_figure_where_all_are_written_alike() -> None:
    assert range_text([1.918, 1.492], ".2f") == "1.49 to 1.92"
    assert range_text([1.921, 1.918], ".2f") == "1.92"


def test_precisions_and_gpus_have_sections_of_their_own() -> None:
    records = {
        "gpu": made(GPU, device="cuda", precision="bf16-mixed"),
        "half": made(NEW, precision="bf16-mixed"),
        "new": made(NEW),
        "old": made(),
    }
    found = groups(records)
    assert {heading: list(group) for heading, group in found.items()} == {
        "On a processor, float32": ["new", "old"],
        "On a processor, bf16-mixed": ["half"],
        "On a GPU, bf16-mixed": ["gpu"],
    }
    assert next(iter(found)) == "On a processor, float32"
    text = overview(records)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {heading}" for heading in found]
    assert "[NVIDIA H100](gpu/README.md)" in text and "| `lightning` | 170 |" in text


def test_without_tensorflow_the_rates_are_there_and_no_ratio_to_it() -> None:
    record = made(GPU, device="cuda")
    for name in ("tf", "tf-tuned-small", "tf-tuned"):
        del record["engines"][name]
    record["ratios"]["training"] = {}
    text = overview({"gpu": record})
    assert "| `lightning` | 170 |" in text and "| `tf`" not in text and "NVIDIA H100" in page(record)


def test_a_second_machine_adds_its_record_and_the_same_one_replaces_its_own(tmp_path: Path) -> None:
    assert add_record(made(), tmp_path).name == "amd-epyc-2-cores-avx2"
    folder = add_record(made(NEW), tmp_path)
    add_record(made(NEW, times=2.0), tmp_path)
    records = read_records(tmp_path)
    assert list(records) == ["amd-epyc-2-cores-avx2", "amd-epyc-2-cores-avx512-bf16-vnni"]
    assert records[folder.name]["ratios"]["training"]["lightning"]["tf"]["median"] == 3.4
    assert (tmp_path / "README.md").read_text() == overview(records)
    with Image.open(tmp_path / "on-a-processor-float32.png") as picture:
        assert picture.width > 500
    assert {path.name for path in folder.iterdir()} == {"README.md", "benchmark.json", "benchmark.png"}


def test_a_changed_record_is_not_shown(tmp_path: Path) -> None:
    path = add_record(made(), tmp_path) / "benchmark.json"
    content = json.loads(path.read_text())
    content["ratios"]["training"]["lightning"]["tf"]["median"] = 9.0
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not what was written"):
        read_records(tmp_path)


def test_no_machines_name_breaks_the_page() -> None:
    html = (
        MarkdownIt("commonmark").enable("table").render(overview({"x": made({"processor": "<img>\n\n# Won | **b**"})}))
    )
    assert (
        re.findall("<img[^>]*", html) == re.findall('<img src="on-a-processor-float32.png"[^>]*', html)
        and "<strong>" not in html
        and html.count("<h1>") == 1
    )
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        assert len({len(re.findall("<t[hd]", row)) for row in re.findall("<tr>.*?</tr>", table, re.DOTALL)}) == 1
