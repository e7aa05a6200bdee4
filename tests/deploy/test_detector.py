"""Detector: answers without a framework, quickly, in a stream, and refusals of what is not one of our models."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lightning_cifake import Detector, Prediction
from lightning_cifake.data.resize import thin
from lightning_cifake.deploy.digest import sealed
from lightning_cifake.deploy.session import Spin, spin_entries
from lightning_cifake.deploy.stream import stream
from lightning_cifake.errors import UserError
from lightning_cifake.shipped import released_model

RELEASED = released_model()
FRAMEWORKS = {"torch", "lightning", "tensorflow", "keras", "scipy", "sklearn", "cv2", "torchmetrics", "matplotlib"}


def grey(level: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def sigmoid(level: int, gain: float = 8.0) -> float:
    return 1 / (1 + np.exp(-gain * (level / 255 - 0.5)))


@pytest.fixture
def detector(make_model: Callable[..., Path]) -> Detector:
    return Detector(make_model())


def test_each_image_gets_its_answer_in_order_whatever_its_size(detector: Detector) -> None:
    levels = np.random.default_rng(0).integers(0, 256, 100)
    sizes = np.random.default_rng(1).integers(1, 50, (100, 2))
    answers = detector.predict(grey(int(level), *size) for level, size in zip(levels, sizes, strict=True))
    assert [answer.prob_real for answer in answers] == pytest.approx([sigmoid(level) for level in levels], abs=1e-6)
    assert [answer.path for answer in answers] == [f"array {number}" for number in range(100)]
    for answer, (height, width) in zip(answers, sizes, strict=True):
        assert (answer.warning is None) == ((height, width) == (32, 32))


@pytest.mark.parametrize("batch_size", [1, 3, 32, 256])
def test_the_batch_size_changes_nothing(detector: Detector, batch_size: int) -> None:
    images = [grey(level) for level in range(0, 250, 10)]
    answers = detector.predict(images, batch_size=batch_size)
    assert [a.prob_real for a in answers] == pytest.approx([sigmoid(level) for level in range(0, 250, 10)], abs=1e-6)


def test_one_image_and_a_stack_of_images_are_taken_too(detector: Detector) -> None:
    assert [answer.verdict for answer in detector.predict(grey(255))] == ["REAL"]
    assert [answer.verdict for answer in detector.predict(np.stack([grey(255), grey(0)]))] == ["REAL", "AI"]
    assert detector.predict([]) == []


def test_the_threshold_is_the_models_and_the_uncertain_band_the_callers(make_model: Callable[..., Path]) -> None:
    strict = Detector(make_model(metadata={"decision_threshold": "0.9"}))
    images = [grey(level) for level in (0, 128, 180, 255)]
    assert [answer.verdict for answer in strict.predict(images)] == ["AI", "AI", "AI", "REAL"]
    answers = strict.predict(images, uncertain=(0.4, 0.95))
    assert [answer.verdict for answer in answers] == ["AI", "UNCERTAIN", "UNCERTAIN", "REAL"]


def test_a_model_of_floats_gets_floats(make_model: Callable[..., Path]) -> None:
    floats = Detector(make_model(kind=TensorProto.FLOAT))
    assert floats.facts.input_type == "float32"
    assert [a.prob_real for a in floats.predict([grey(70)])] == pytest.approx(
        [sigmoid(70)], abs=3e-6
    )  # a float32 mean of 3,072


def test_a_bad_image_is_an_answer_and_the_others_get_theirs(detector: Detector, tmp_path: Path) -> None:
    answers = detector.predict([grey(255), b"nothing", tmp_path / "nowhere.png", grey(0)])
    assert [answer.verdict for answer in answers] == ["REAL", None, None, "AI"]
    assert answers[1] == Prediction("bytes 1", None, None, "not an image, or of a format that is not read here")


def test_an_array_of_another_form_is_refused(detector: Detector) -> None:
    with pytest.raises(UserError, match=r"image 1: expected a path, .* got ndarray"):
        detector.predict([grey(0), np.zeros((32, 32))])


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_answers_come_while_images_are_still_to_come_and_few_are_held(detector: Detector, threads: int) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield grey(200)

    answers = stream(detector, endless(), batch_size=4, threads=threads)
    for number in range(1, 200):
        assert next(answers).verdict == "REAL"
        assert taken <= number + 4 + 2 * threads + 1
    answers.close()


@pytest.mark.timeout(60)
def test_an_interruption_is_not_held_up_by_what_is_being_decoded(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr("lightning_cifake.deploy.stream.decode", lambda *_: ended.wait(120))

    def interrupted() -> Iterator[np.ndarray]:
        yield grey(200)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stream(detector, interrupted(), threads=2))
    assert not ended.is_set()
    ended.set()


def test_what_a_decoding_thread_raises_comes_out(detector: Detector) -> None:
    with pytest.raises(UserError, match=r"image 0: expected a path, .* got ndarray"):
        list(stream(detector, [np.zeros((3, 3))], threads=2))


def test_of_a_large_photograph_a_batch_holds_little(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    monkeypatch.setattr(
        Detector,
        "prob_real",
        lambda self, images: (
            held.append(sum(image.nbytes for image in images)) or np.full(len(images), 0.5, np.float32)
        ),
    )
    answers = detector.predict([grey(0, 2000, 3000)] * 7, batch_size=32)  # 18 MB each
    assert len(held) == 1 and held[0] < 7 * (4 * 32) ** 2 * 3
    assert {answer.warning for answer in answers if answer.warning} == {answers[0].warning}
    assert answers[0].warning is not None and "3000x2000, trained on 32x32" in answers[0].warning


def test_from_a_cold_start_the_answer_comes_within_a_second_and_no_framework_is_loaded(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text(
        "import sys, time; start = time.perf_counter()\n"
        "from lightning_cifake import Detector\n"
        f"(answer,) = Detector({str(make_model())!r}).predict({str(tmp_path / 'a.png')!r})\n"
        "print(time.perf_counter() - start, answer.verdict, sorted(set(sys.modules)))"
    )
    from PIL import Image

    Image.fromarray(grey(250, 50, 60)).save(tmp_path / "a.png")
    times = []
    for _ in range(3):  # the first may read libraries from the disk, and other work may lie in between
        ran = subprocess.run([sys.executable, tmp_path / "a.py"], capture_output=True, text=True, check=True)
        seconds, verdict, modules = ran.stdout.split(maxsplit=2)
        assert verdict == "REAL" and not FRAMEWORKS & set(eval(modules))
        times.append(float(seconds))
    assert min(times) < 1, times


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"these are words", "cannot be loaded as an ONNX model"),
        (b"\x08\x0a" + b"\xff" * 40, "cannot be loaded as an ONNX model"),
        (b"PK\x03\x04 a checkpoint", "is damaged, or cut off: it begins as a checkpoint or a Keras file does"),
    ],
)
def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    refused(tmp_path / "x.onnx", reason)


def refused(path: Path | str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        Detector(path)
    assert "\n" not in str(error.value) and Path(path).name in str(error.value)


def test_a_truncated_model_is_one_line(make_model: Callable[..., Path]) -> None:
    path = make_model()
    path.write_bytes(path.read_bytes()[:200])
    refused(path, "cannot be loaded|is another model|metadata")


@pytest.mark.parametrize("path", ["https://host/model.onnx", "http:/host/model.onnx", "s3://bucket/model.onnx"])
def test_an_address_is_never_taken(path: str) -> None:
    refused(path, "models are read from files only")


def test_a_folder_and_a_missing_file_are_one_line(tmp_path: Path) -> None:
    refused(tmp_path, "is not a file")
    refused(tmp_path / "nowhere.onnx", "does not exist")


@pytest.mark.parametrize(
    "changed",
    [
        {"decision_threshold": None},
        {"temperature": None},
        {"image_size": None},
        {"precision": None},
        {"class_names": None},
        {"class_names": '["REAL", "AI"]'},
        {"class_names": "AI, REAL"},
        {"decision_threshold": "2"},
        {"decision_threshold": "nan"},
        {"decision_threshold": "half"},
        {"temperature": "0"},
        {"temperature": "inf"},
        {"image_size": "0"},
        {"image_size": "32.5"},
        {"class_names": "[" * 100_000},
    ],
)
def test_metadata_that_are_missing_or_make_no_sense_are_refused(
    make_model: Callable[..., Path], changed: dict[str, str | None]
) -> None:
    refused(make_model(metadata=changed), "has not the metadata of a model of this project")


def test_metadata_without_end_are_refused_before_they_are_parsed(make_model: Callable[..., Path]) -> None:
    refused(
        make_model(metadata={"class_names": "[" + "1," * 10**6 + "1]"}), r"its metadata have 2,0\d\d,\d+ characters"
    )


def test_a_model_too_large_for_any_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "sparse.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    refused(path, "3,221,225,472 bytes: expected a model of at most 1,073,741,824")


@pytest.mark.parametrize("place", [0, 40, 200, -90, -84, -70, -64, -1])
def test_a_flipped_bit_anywhere_is_refused_as_damage(make_model: Callable[..., Path], place: int) -> None:
    path = make_model()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    refused(path, "is damaged, or was changed after its export")


def test_a_model_that_another_tool_rewrote_is_refused_until_its_old_digest_is_dropped(
    make_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = make_model()
    model = onnx.load_model(path)
    model.metadata_props.insert(0, model.metadata_props.pop())
    path.write_bytes(model.SerializeToString())
    refused(path, "drop content_sha256 from its metadata if the change is meant")
    del model.metadata_props[0]
    path.write_bytes(model.SerializeToString())
    assert not Detector(path).checked and "carries no digest, and no manifest lies beside it" in caplog.text


def test_onnx_reads_the_digest_as_metadata_like_any_other(make_model: Callable[..., Path]) -> None:
    path = make_model()
    digest = hashlib.sha256(path.read_bytes()[:-84]).hexdigest()
    assert {each.key: each.value for each in onnx.load_model(path).metadata_props}["content_sha256"] == digest
    detector = Detector(path)
    assert detector.checked and detector.facts.metadata["content_sha256"] == digest
    assert sealed(path.read_bytes()) == path.read_bytes()


def test_a_foreign_model_is_refused_by_what_it_takes_and_gives(make_model: Callable[..., Path]) -> None:
    refused(make_model(image="pixel_values"), r"is another model: expected images \(N, H, W, 3\)")


def test_weights_outside_the_models_folder_are_not_read(make_model: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.float32(8 / 255).tobytes())
    (tmp_path / "inside").mkdir()
    for location in ("../secret", str(tmp_path / "secret"), "link"):
        model = onnx.load_model(make_model(seal=False))
        gain = model.graph.initializer[0]
        gain.ClearField("raw_data")
        gain.data_location = TensorProto.EXTERNAL
        gain.external_data.add(key="location", value=location)
        path = tmp_path / "inside" / "outside.onnx"
        if location == "link":
            (tmp_path / "inside" / "link").symlink_to(tmp_path / "secret")
        path.write_bytes(model.SerializeToString())
        refused(path, "cannot be loaded as an ONNX model")


def test_a_model_that_fails_or_answers_otherwise_is_one_line(make_model: Callable[..., Path]) -> None:
    path = make_model(seal=False)
    model = onnx.load_model(path)
    mean = model.graph.node[1]
    mean.input[1] = "half"  # no axes: fails when it runs, or when it is loaded
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"model\.onnx (fails on images|cannot be loaded)"):
        Detector(path).predict([grey(0)])
    model = onnx.load_model(make_model(seal=False))
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2]), "axes"))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="expected 1 answers to as many images"):
        Detector(path).predict([grey(0)])


def test_operators_of_other_libraries_are_refused(make_model: Callable[..., Path]) -> None:
    path = make_model(seal=False)
    model = onnx.load_model(path)
    model.opset_import.add(domain="com.evil", version=1)
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.evil", "RunCode"
    path.write_bytes(model.SerializeToString())
    refused(path, "cannot be loaded as an ONNX model")


@pytest.mark.parametrize("shape", [(700, 900), (128, 3000), (2000, 33)])
def test_of_a_large_image_the_released_model_says_the_same_bit_for_bit(shape: tuple[int, int]) -> None:
    detector = Detector(RELEASED, threads=1)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    (whole,), (whole_logit,) = detector.run(image[None])
    thinned = thin(image, detector.image_size)
    (prob,), (logit,) = detector.run(thinned[None])
    assert thinned.nbytes < image.nbytes and (prob, logit) == (whole, whole_logit)
    (answer,) = detector.predict(image)
    assert answer.prob_real == prob


@pytest.mark.parametrize(
    ("spin", "version", "allowed", "microseconds"),
    [
        ("short", "1.32.0", "1", "20"),
        ("short", "1.26.0", "1", "20"),
        ("short", "1.25.1", "0", None),
        ("long", "1.32.0", "1", None),
        ("none", "1.32.0", "0", None),
    ],
)
def test_threads_spin_within_a_call_and_for_a_moment_where_onnxruntime_can_bound_it(
    spin: Spin, version: str, allowed: str, microseconds: str | None
) -> None:
    entries = spin_entries(spin, version)
    assert entries["session.intra_op.allow_spinning"] == allowed
    assert entries.get("session.intra_op.spin_duration_us") == microseconds
    assert ("session.force_spinning_stop" in entries) == (microseconds is not None)
