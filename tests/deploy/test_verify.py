"""The command ``verify``: a model that answers as its manifest says passes, whatever differs does not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from lightning_cifake import Detector
from lightning_cifake.commands.main import main
from lightning_cifake.data.decode import load_images
from lightning_cifake.data.protocols import make_split, write_split
from lightning_cifake.deploy import export
from lightning_cifake.files import read_json, sealed_json, sha256_of


@pytest.fixture
def model(exported_model: Path) -> Path:
    return exported_model


def edit_manifest(change: Any) -> None:
    """As one who means it: with the digest of what it says then."""
    content, _ = read_json(Path("model.json"))
    change(content)
    Path("model.json").write_text(sealed_json(content))


def scale_last_weights(path: Path, factor: float) -> None:
    """Another model under the same name, whose manifest says that it is this file."""
    model = onnx.load_model(path)
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    held = (last.input[1], f"{last.input[1]}_float16")
    (weight,) = [each for each in model.graph.initializer if each.name in held]
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(array * array.dtype.type(factor), weight.name))
    path.write_bytes(export.serialized(model))
    edit_manifest(lambda content: content["model"].update(sha256=sha256_of(path)))


def test_a_model_is_verified_without_its_checkpoint_and_its_data(model: Path, capsys: Any) -> None:
    Path("best.ckpt").unlink()
    assert main(["verify", "model.onnx"]) == 0
    output = capsys.readouterr().out
    assert "logits of 64 demo images" in output and "logits of 18 hard images" in output
    assert output.splitlines()[-1].startswith("verified: model.onnx, float32, onnxruntime ")


def test_a_model_that_answers_otherwise_is_not(model: Path, capsys: Any) -> None:
    scale_last_weights(model, 1.01)
    assert main(["verify", "model.onnx"]) == 1
    assert "NOT verified: logits of 64 demo images differ by" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_a_smaller_precision_may_differ_by_what_it_costs_and_no_more(
    small_checkpoint: Path, factor: float, capsys: Any
) -> None:
    arguments = ["--output", "model.onnx", "--precision", "float16", "--max_loss", "100", "--sample", "40"]
    assert main(["export", "--ckpt_path", "best.ckpt", *arguments]) == 0
    scale_last_weights(Path("model.onnx"), factor)
    assert main(["verify", "model.onnx"]) == (factor != 1)
    assert "in the mean from those at export (limit" in capsys.readouterr().out


def test_with_the_checkpoint_the_whole_comparison_is_made_again(model: Path, capsys: Any) -> None:
    Path("model.json").rename("elsewhere.json")  # the checkpoint is enough
    arguments = ["verify", "model.onnx", "--ckpt_path", "best.ckpt", "--data.root", "demo", "--sample", "40"]
    assert main(arguments) == 0
    assert "40 test images of demo" in capsys.readouterr().out
    content = torch.load("best.ckpt", weights_only=True)
    content["state_dict"]["network.head.4.bias"] += 0.01
    torch.save(content, "best.ckpt")
    assert main(arguments) == 1
    output = capsys.readouterr().out
    assert "was exported from another file" in output and "NOT verified: logits of real images differ" in output


def test_with_images_alone_its_own_figures_on_them_are_given(model: Path, capsys: Any) -> None:
    assert main(["verify", "model.onnx", "--data.root", "demo"]) == 0
    output = capsys.readouterr().out
    assert "measured on 2,026 of the 2,026 images of demo: all of it; not known: how much of it was trained" in output
    assert '{"accuracy": ' in output


def test_a_folder_without_parts_is_measured_whole_and_one_with_a_test_part_on_that(
    model: Path, workplace: Path, capsys: Any
) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("flat", 6), ("parts/train", 5), ("parts/test", 3)):
        for label in ("FAKE", "REAL"):
            (workplace / name / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(workplace / name / label / f"{number}.png")
    assert main(["verify", "model.onnx", "--data.root", "flat"]) == 0
    assert "measured on 12 of the 12 images of flat: all of it" in capsys.readouterr().out
    assert main(["verify", "model.onnx", "--data.root", "parts"]) == 0
    assert "measured on 6 of the 16 images of parts: its test part" in capsys.readouterr().out
    images = load_images("flat", 32)
    write_split(workplace / "split.json", images, make_split(images, "clean"))
    assert main(["verify", "model.onnx", "--data.root", "flat"]) == 0
    assert "of the 12 images of flat: the test images of the run's split" in capsys.readouterr().out


def test_class_folders_by_other_names_are_measured_when_they_are_named(
    model: Path, workplace: Path, capsys: Any
) -> None:
    for label in ("ai", "nature"):
        (workplace / "others" / label).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), (number, 9, 9)).save(workplace / "others" / label / f"{number}.png")
    assert main(["verify", "model.onnx", "--data.root", "others"]) == 2
    flag = "--data.classes fake=ai,real=nature"
    assert capsys.readouterr().err.splitlines()[-1].endswith(flag)
    assert main(["verify", "model.onnx", "--data.root", "others", *flag.split()]) == 0
    assert "measured on 6 of the 6 images of others" in capsys.readouterr().out


def test_verify_needs_neither_torch_nor_lightning(model: Path) -> None:
    program = (
        "import sys; from lightning_cifake.commands.main import main; code = main(['verify', 'model.onnx']); "
        "print(sorted({'torch', 'lightning', 'torchvision', 'torchmetrics'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.55, 0.8, 0.97])
@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_flipped_byte_is_found(model: Path, name: str, share: float, capsys: Any) -> None:
    path = Path(name)
    flip(path, int(share * path.stat().st_size))
    assert main(["verify", "model.onnx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and f"{name} is damaged" in line


@pytest.mark.parametrize("name", ["split.json", "metrics.json"])
def test_a_flipped_byte_of_what_the_run_left_beside_the_model_is_found(
    model: Path, workplace: Path, name: str, capsys: Any
) -> None:
    path = workplace / name
    path.write_text(sealed_json({"train": ["FAKE/1.png"], "accuracy": 0.5}))
    assert main(["verify", "model.onnx"]) == 0
    path.write_text(path.read_text().replace("1.png", "2.png"))
    assert main(["verify", "model.onnx"]) == 1
    assert f"NOT verified: {name} is damaged" in capsys.readouterr().out


def test_what_carries_no_digest_is_said_to_be_unchecked(model: Path, workplace: Path, capsys: Any) -> None:
    content, _ = read_json(Path("model.json"))
    Path("model.json").write_text(json.dumps(content))  # as 0.1.0 wrote it
    Path("metrics.json").write_text("{}")
    assert main(["verify", "model.onnx"]) == 0
    output = capsys.readouterr().out
    assert output.count("carries no digest") == 2 and "note: model.json carries" in output


def test_predict_holds_a_model_without_a_digest_against_its_manifest(
    model: Path, workplace: Path, caplog: Any, capsys: Any
) -> None:
    flip_model, content = workplace / "old.onnx", onnx.load_model(model)
    kept = [each for each in content.metadata_props if each.key != "content_sha256"]
    del content.metadata_props[:]
    content.metadata_props.extend(kept)
    flip_model.write_bytes(content.SerializeToString())  # as 0.1.0 wrote it
    assert not Detector(flip_model).checked
    assert "old.onnx carries no digest, and no manifest lies beside it" in caplog.text
    manifest = read_json(Path("model.json"))[0]
    manifest["model"]["sha256"] = sha256_of(flip_model)
    Path("old.json").write_text(json.dumps(manifest))
    assert Detector(flip_model).checked
    flip(flip_model, flip_model.stat().st_size // 2)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("image.png")
    assert main(["predict", "--model", "old.onnx", "image.png"]) == 2
    assert "old.onnx is not the file that old.json was written for: expected SHA-256" in capsys.readouterr().err


def test_a_manifest_of_another_model_is_said(model: Path, workplace: Path, caplog: Any) -> None:
    edit_manifest(lambda content: content["model"].update(sha256="0" * 64))
    assert Detector(model).checked
    assert "model.json lies beside model.onnx and was written for another file" in caplog.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: Path("model.json").unlink(), "the manifest model.json cannot be read"),
        (lambda: Path("model.json").write_text("{"), "the manifest model.json is damaged, or no JSON"),
        (lambda: Path("model.json").write_text("[]"), "the manifest model.json: expected a JSON object"),
        (lambda: Path("model.json").write_text("{}"), "model.json is not the manifest"),
        (lambda: Path("model.json").write_text("[" * 100_000), "the manifest model.json is damaged, or no JSON"),
        (lambda: edit_manifest(lambda c: c.pop("answers")), "does not hold the answers"),
        (lambda: edit_manifest(lambda c: c["answers"]["demo"].pop()), "does not hold the answers"),
        (lambda: edit_manifest(lambda c: c["answers"]["hard"].update(other=[0, 0])), "does not hold the answers"),
        (lambda: edit_manifest(lambda c: c["answers"].update(demo="x")), "does not hold the answers"),
        (
            lambda: Path("model.onnx").write_bytes(Path("model.onnx").read_bytes() + b"\x0a\x00"),
            "model.onnx is damaged",
        ),
        (lambda: edit_manifest(lambda c: c["model"].update(sha256="0" * 64)), "is not the file that model.json was"),
        (lambda: Path("model.onnx").write_bytes(b"words"), "cannot be loaded as an ONNX model"),
        (lambda: Path("model.onnx").unlink(), "does not exist"),
    ],
)
def test_what_cannot_be_verified_is_one_line(model: Path, change: Any, says: str, capsys: Any) -> None:
    change()
    assert main(["verify", "model.onnx"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line


def test_an_exported_model_has_the_occlusion_maps_that_captum_gives_of_its_checkpoint(model: Path) -> None:
    from captum.attr import Occlusion

    from lightning_cifake.data.datamodule import to_float
    from lightning_cifake.data.resize import resize_square
    from lightning_cifake.deploy.predict import load_classifier
    from lightning_cifake.evaluation.occlusion import baseline_colour, occlusion_map

    detector, classifier = Detector(model), load_classifier("best.ckpt")
    large = load_images().images[:4].reshape(64, 64, 3)
    pixels = resize_square(large, 32)
    assert np.allclose(detector.run(pixels[None])[1], detector.run(large[None])[1], atol=1e-5)  # as the model sees it
    colour = to_float(torch.from_numpy(baseline_colour(pixels, "mean")[None, None, None].copy()))
    theirs = Occlusion(classifier.network).attribute(
        to_float(torch.from_numpy(pixels[None])), (3, 8, 8), (3, 3, 3), colour.expand(1, 3, 32, 32)
    )
    ours = occlusion_map(lambda images: detector.run(images)[1], pixels, 8, 3)
    assert np.ptp(ours) > 0.1 and np.allclose(ours, theirs[0, 0].detach().numpy(), atol=2e-5)
