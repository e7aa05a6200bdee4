"""The command ``convert``: a Keras file or an exported model to a checkpoint, or a checkpoint to a Keras file."""

from pathlib import Path
from typing import Any

from lightning_cifake.commands.arguments import add_keras_arguments
from lightning_cifake.commands.parsing import Parser
from lightning_cifake.commands.torch_side import import_training_side
from lightning_cifake.console import say
from lightning_cifake.errors import UserError
from lightning_cifake.shipped import MODELS, model_file
from lightning_cifake.text import printable

EXAMPLES = """examples:
  python -m lightning_cifake convert ai_imageclassifier.keras checkpoints/keras/last.ckpt
      then: test --ckpt_path checkpoints/keras/last.ckpt --config clean --data.root ...
      or resume training: fit --ckpt_path checkpoints/keras/last.ckpt --config published --data.root ...
  python -m lightning_cifake convert checkpoints/clean/1/last.ckpt model.keras
      in Keras: keras.models.load_model("model.keras").fit(..., initial_epoch=E), E as printed
  python -m lightning_cifake convert resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 start.ckpt
  python -m lightning_cifake convert other.weights.h5 other.ckpt --head "avgpool, dense 64 relu, dense 1"
  python -m lightning_cifake convert notebook.h5 other.ckpt --pixels 0-255 --real_class 0
      a model that was fed raw bytes, from folders whose first name is that of the real images
  python -m lightning_cifake convert compact-float32 start.ckpt
      an exported model, or a released one by its name; then: fit --model.weights start.ckpt --data.root YOUR_FOLDER

What can be taken: keras.applications' ResNet50 with Flatten or GlobalAveragePooling2D and any stack of Dense,
BatchNormalization, Dropout and activations that ends in Dense(1) or Dense(2); before it Rescaling, Normalization,
x / 255, preprocess_input and augmentation. Anything else is refused by its first layer that differs. Nothing in a file
is executed. Reading needs no TensorFlow; writing does, and a SavedModel's folder: pip install 'lightning_cifake[tf]'
"""

OF_KERAS = ("epoch", "head", "image_size", "pixels", "real_class")  # what a Keras file may not tell


def add_arguments(parser: Parser) -> None:
    parser.teach(
        "Turns a Keras file (.keras, .h5, .weights.h5) into a checkpoint (.ckpt), or a checkpoint into a Keras file.\n"
        "The optimizer's state and the epoch go along between .keras or .h5 and a last.ckpt, so that training resumes\n"
        "in the other framework; best.ckpt and .weights.h5 hold weights alone. Prints one line; notes of what was\n"
        "left out or taken for granted go to standard error. The target is written whole or not at all.\n"
        "An exported model (.onnx, float32 or float16) becomes a checkpoint too, which answers alike: that is checked.",
        EXAMPLES,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the file to convert")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the file to write; its end tells the format")
    parser.add_argument("--overwrite", action="store_true", help="replaces a TARGET that exists")
    add_keras_arguments(parser, head="the head of a file of weights alone, in the words of model.network.head")
    group = parser.add_argument_group("how far a Keras model was trained")
    group.add_argument(
        "--epoch",
        type=int,
        metavar="N",
        help="epochs the Keras model was trained for, which its file does not hold (default: from its learning rate, "
        "where that is 1e-3 * 0.95**N, as the published schedule leaves it)",
    )
    group.add_argument(
        "--lr_decay",
        type=float,
        default=0.95,
        metavar="D",
        help="what each epoch multiplies the Keras model's learning rate with (default: 0.95; 1: it stays as it is)",
    )


def run(options: Any) -> int:
    """Returns the exit code.

    Raises:
        UserError: the arguments, or a file that cannot be taken.
    """
    if options.image_size is not None and options.image_size < 1:
        raise UserError(f"--image_size: expected at least 1, got {options.image_size}")
    import_training_side("convert")
    if str(options.source) in MODELS or options.source.suffix.lower() == ".onnx":
        report = _unexported(options)
    else:
        from lightning_cifake.training.convert import Options, convert

        names = ("epoch", "lr_decay", "head", "image_size", "overwrite", "pixels", "real_class")
        report = convert(options.source, options.target, Options(**{name: options[name] for name in names}))
    print(report.line)
    for note in report.notes:
        say(f"note: {printable(note)}")
    return 0


def _unexported(options: Any) -> Any:
    given = [f"--{name}" for name in OF_KERAS if options[name] is not None]
    if given:
        raise UserError(f"{', '.join(given)}: an exported model tells this itself; it is for Keras files that do not")
    from lightning_cifake.deploy.unexport import unexport

    return unexport(model_file(str(options.source)), options.target, options.overwrite)
