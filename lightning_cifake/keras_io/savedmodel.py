"""A SavedModel's folder, as Keras's ``model.export(folder)`` or Keras 2's ``model.save(folder)`` writes it.

TensorFlow reads the variables, in a process of its own: it must not be imported before torch, and a damaged file may
end it. Nothing of the graph is executed. Such a folder tells the layers' names and the images' size, and neither
activations nor what is done to the pixels.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lightning_cifake.errors import UserError
from lightning_cifake.keras_io.hdf5 import LARGEST
from lightning_cifake.keras_io.keras_file import KerasFile
from lightning_cifake.text import shorten

SECONDS = 300.0
VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "mean", "variance")
MOST_VARIABLES = 5000
_SCRIPT = """
import json, sys
sys.path[:] = [place for place in sys.path if place]  # nothing of the current folder
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2
folder, target, wanted = sys.argv[1], sys.argv[2], sys.argv[3].split()
largest, most = int(sys.argv[4]), int(sys.argv[5])
reader = tf.train.load_checkpoint(folder + "/variables/variables")
graph = trackable_object_graph_pb2.TrackableObjectGraph()
graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
found = {}
for node in graph.nodes:
    for value in node.attributes:
        name, key = value.full_name, value.checkpoint_key
        parts = name.split("/")
        numbers = types.get(key) in (tf.float16, tf.float32, tf.float64)
        if numbers and parts[-1] in wanted and len(parts) > 1 and "Adam" not in parts:
            number = key.split("/")[1] if key.startswith(("variables/", "_all_variables/")) else ""
            place = int(number) if number.isdecimal() and key.startswith("variables/") else 10**6 + len(found)
            found.setdefault(name, (place, key))
size = sum(int(np.prod(shapes[key], dtype=float)) * types[key].size for _, key in found.values())
if size > largest or len(found) > most:
    sys.exit("it holds more than any ResNet50")
ordered = sorted(found, key=lambda name: found[name][0])
image = None
model = saved_model_pb2.SavedModel()
with open(folder + "/saved_model.pb", "rb") as file:
    content = file.read((64 << 20) + 1)
if len(content) <= 64 << 20:
    model.ParseFromString(content)
    for meta in model.meta_graphs[:1]:
        for signature in meta.signature_def.values():
            for given in signature.inputs.values():
                dims = [dim.size for dim in given.tensor_shape.dim]
                if len(dims) == 4 and dims[1] == dims[2] > 0:
                    image = dims[1]
with open(target, "wb") as file:
    arrays = {str(at): reader.get_tensor(found[name][1]) for at, name in enumerate(ordered)}
    np.savez(file, names=np.array(json.dumps([ordered, image])), **arrays)
"""


def read_saved_model(path: Path) -> KerasFile:
    """The folder as a file of weights in Keras's older form: layers by their names, in the model's order.

    Raises:
        UserError: TensorFlow is missing, or it cannot read the folder.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{path}: reading a SavedModel needs TensorFlow, which is missing: pip install 'lightning_cifake[tf]', or "
            "save the model as .keras where TensorFlow is"
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "variables.npz"
        command = [sys.executable, "-c", _SCRIPT, str(path), str(target), " ".join(VARIABLES)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        try:
            done = subprocess.run(
                [*command, str(LARGEST), str(MOST_VARIABLES)],
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{path}: TensorFlow did not read it within {SECONDS:.0f} s") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = shorten(lines[-1], 300) if lines else f"exit {done.returncode}"
            raise UserError(f"{path} is damaged, or no SavedModel of Keras ({reason})")
        return _layers(path, target)


def _layers(path: Path, variables: Path) -> KerasFile:
    file = KerasFile(path, legacy=True)
    with np.load(variables, allow_pickle=False) as arrays:
        names, image_size = json.loads(str(arrays["names"]))
        for at, name in enumerate(names):
            layer, variable = name.split("/")[-2:]
            file.layers.setdefault((layer, layer), {}).setdefault(variable, arrays[str(at)])
    file.image_size = image_size
    if not file.layers:
        raise UserError(f"{path}: there are no layers' weights in it that are known here")
    return file
