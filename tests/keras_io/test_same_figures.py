"""One network in three files: Keras's, a checkpoint, ONNX; evaluate gives them the same figures."""

from pathlib import Path

import keras_form as form
import numpy as np
import pytest
from made import write_images

from lightning_cifake.assessment.evaluate import Subject, evaluate
from lightning_cifake.assessment.images import Asked
from lightning_cifake.assessment.models import open_models
from lightning_cifake.deploy import export
from lightning_cifake.training.convert import Options, convert


@pytest.mark.long
def test_a_keras_file_its_checkpoint_and_its_onnx_model_have_the_same_figures(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("model.keras", "model.ckpt", "model.onnx")]
    form.write_keras(files[0], form.published(), form.paths(form.random_weights()))
    convert(files[0], files[1], Options())
    classifier = open_models(files[:1])[0].classifier  # type: ignore[attr-defined]
    made = export.to_onnx(classifier)
    export.set_metadata(made, export.metadata(classifier, "float32", "uint8", 1.0, 0.5))
    files[2].write_bytes(export.serialized(made))
    write_images(tmp_path / "images", *(f"{label}/{i}.png" for label in ("FAKE", "REAL") for i in range(20)))

    asked = Asked(str(tmp_path / "images"))
    content, answered = evaluate([Subject(model) for model in open_models(files)], asked, draws=50)
    first, *others = content["models"]
    assert len(np.unique(answered[0].predictions.logits)) == 40
    for number, other in enumerate(others, 1):
        logits = [answered[at].predictions.logits for at in (0, number)]
        assert np.allclose(*logits, rtol=1e-4, atol=1e-4)
        assert other["all"]["confusion_matrix"] == first["all"]["confusion_matrix"]
        for name, figure in first["all"]["figures"].items():
            assert other["all"]["figures"][name]["value"] == pytest.approx(figure["value"], abs=1e-5), name
            assert other["all"]["figures"][name]["interval"] == pytest.approx(figure["interval"], abs=1e-4), name
