"""python -m tf_reference fit | evaluate | predict | split-sizes"""

import argparse
import json
import os
import sys
from pathlib import Path

MISSING = "tf_reference needs TensorFlow, and {} is missing: pip install 'lightning_cifake[tf]'"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 2 for a user's mistake, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings
    os.environ.setdefault("MPLBACKEND", "Agg")
    # TensorFlow's own default on processors with AVX512; others train several times faster with it too
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401
    except ImportError as error:
        print(f"error: {MISSING.format(error.name)}", file=sys.stderr)
        return 2
    from tf_reference.data import InputError

    try:
        return {"fit": _fit, "evaluate": _evaluate, "predict": _predict, "split-sizes": _split_sizes}[options.command](
            options
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno is None or (not error.filename and not error.strerror):
            raise
        print(f"error: {error.strerror}: {error.filename or 'the output folder'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; nothing of this run was kept", file=sys.stderr)
        return 130


class _Renamed(argparse.Action):
    """A flag as version 0.1.0 spelt it: works for one version more, with a note, and is not in the help."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"note: {option_string} is called --{self.dest} now", file=sys.stderr)
        setattr(namespace, self.dest, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tf_reference",
        description="The published TensorFlow system: ResNet50 with a dense/batch-norm/dropout head that tells "
        "photographs (REAL) from generated images (FAKE). Trains, measures and predicts as the paper's code does, "
        "leaks included; --protocol clean fixes both leaks and nothing else.",
        epilog="example: python -m tf_reference fit --data.root FOLDER --weights none; FOLDER holds FAKE/ and REAL/",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fit = commands.add_parser("fit", help="train, evaluate, save", description="Trains, evaluates and saves.")
    _add_data(fit)
    fit.add_argument(
        "--weights", default="imagenet", help="imagenet (as published; Keras fetches them), none, or a file"
    )
    fit.add_argument("--epochs", type=_positive, default=10, help="default: 10, as published")
    fit.add_argument("--patience", type=_positive, default=3, help="of the early stopping (default: 3, as published)")
    fit.add_argument(
        "--lr_decay", type=_factor, default=0.95, help="of the learning rate each epoch (default: 0.95, as published)"
    )
    fit.add_argument("--resume", metavar="FILE.keras", help="resumes from a saved model, with its optimizer")
    fit.add_argument("--initial_epoch", type=int, default=0, help="epochs that --resume has behind it")
    fit.add_argument("--lr-decay", dest="lr_decay", type=_factor, action=_Renamed)
    fit.add_argument("--initial-epoch", dest="initial_epoch", type=int, action=_Renamed)
    fit.add_argument("--output", type=Path, help="folder for the results (default: tf_reference_runs/<n>)")

    evaluate = commands.add_parser("evaluate", help="measure a saved model", description="Measures a saved model.")
    evaluate.add_argument("--model", required=True, metavar="FILE.keras")
    _add_data(evaluate)
    evaluate.add_argument("--all", action="store_true", help="on every image of the folder, not on its test part")
    evaluate.add_argument("--output", type=Path, help="folder for the results (default: tf_reference_runs/<n>)")

    predict = commands.add_parser("predict", help="ask about one image", description="Asks about single images.")
    predict.add_argument("images", nargs="+", metavar="IMAGE")
    predict.add_argument("--model", required=True, metavar="FILE.keras")
    predict.add_argument("--show", type=Path, metavar="FILE.png", help="writes the picture that the paper shows")

    sizes = commands.add_parser(
        "split-sizes", help="how many batches train, validate, test", description="Prints the split as the paper does."
    )
    sizes.add_argument("--data.root", dest="data", metavar="FOLDER", help="holds FAKE/ and REAL/")
    sizes.add_argument("--batches", type=_positive, help="instead of a folder: so many batches of 32")
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data.root", dest="data", required=True, metavar="FOLDER", help="holds FAKE/ and REAL/")
    parser.add_argument(
        "--protocol",
        choices=("published", "clean"),
        default="published",
        help="published trains on its validation and test images too, and cuts them anew at each reading; "
        "clean does neither (default: published)",
    )
    parser.add_argument(
        "--split", type=Path, metavar="SPLIT.json", help="trains, validates and tests on the files it names"
    )
    parser.add_argument("--seed", type=int, help="of split, weights and dropout; drawn and told where there is none")
    parser.add_argument(
        "--decoder",
        choices=("default", "accurate"),
        default="default",
        help="of JPEGs: TensorFlow's fast one, as published, or the accurate one that Pillow has",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _factor(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 1, got {text}")
    return number


def _fit(options: argparse.Namespace) -> int:
    from tf_reference import train as training
    from tf_reference.data import InputError

    if options.initial_epoch and not options.resume:
        raise InputError("--initial_epoch belongs to --resume FILE.keras")
    if options.initial_epoch >= options.epochs:
        raise InputError(
            f"--initial_epoch {options.initial_epoch} leaves nothing to train up to --epochs {options.epochs}"
        )
    training.enable_memory_growth()
    seed = _seed(options)
    training.seed_everything(seed)
    splits = _splits(options, seed)
    train_size, cv_size, test_size = splits.sizes
    print("Train: ", train_size)
    print("Test: ", test_size)
    print("Val: ", cv_size)
    weights = None if options.weights == "none" else options.weights
    model, history = training.train(
        splits,
        weights,
        options.epochs,
        options.patience,
        options.resume,
        options.initial_epoch,
        verbose="auto" if sys.stdout.isatty() else 2,
        lr_decay=options.lr_decay,
    )
    folder = _output(options.output)
    path = training.save(model, folder)
    training.write_json(folder / "history.json", history)
    training.plot_history(history, folder / "history.png")
    results = _measure(model, splits.test, splits.files.get("test"), folder)
    _write_results(folder, options, seed, results, splits.sizes, history)
    if splits.files:
        root = options.data
        names = {"train": "train", "val": "cv", "test": "test"}
        kept = {
            key: [Path(file).relative_to(root).as_posix() for file in splits.files[part]] for key, part in names.items()
        }
        training.write_json(folder / "split.json", {"protocol": "clean", "seed": seed, "data_digest": "", **kept})
    print(f"model: {path}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from tf_reference import train as training
    from tf_reference.data import whole_folder

    training.enable_memory_growth()
    model = training.load_model(options.model)
    seed = _seed(options)
    if options.all:
        data, files = whole_folder(options.data, options.decoder)
        sizes = None
    else:
        splits = _splits(options, seed)
        data, files, sizes = splits.test, splits.files.get("test"), splits.sizes
    folder = _output(options.output)
    _write_results(folder, options, seed, _measure(model, data, files, folder), sizes)
    print(f"results: {folder}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from tf_reference.evaluate import predict_image
    from tf_reference.train import load_model

    model = load_model(options.model)
    answers = [predict_image(model, path, options.show) for path in options.images]
    return 1 if None in answers else 0


def _split_sizes(options: argparse.Namespace) -> int:
    from tf_reference.data import InputError, load_data, split_sizes

    if (options.data is None) == (options.batches is None):
        raise InputError("split-sizes: expected either --data.root FOLDER or --batches N")
    batches = options.batches if options.batches is not None else len(load_data(options.data))
    train_size, cv_size, test_size = split_sizes(batches)
    # what take and skip give, which at some sizes is one less than was asked for
    print("Train: ", train_size)
    print("Test: ", min(test_size, batches - train_size - cv_size))
    print("Val: ", cv_size)
    return 0


def _seed(options: argparse.Namespace) -> int:
    if options.seed is not None:
        return options.seed
    seed = int.from_bytes(os.urandom(3), "little")
    print(f"seed: {seed}")
    return seed


def _splits(options: argparse.Namespace, seed: int):
    from tf_reference import data

    if options.split is None:
        return getattr(data, options.protocol)(options.data, seed, options.decoder)
    try:
        split = json.loads(options.split.read_text(encoding="utf-8"))
        return data.from_split(options.data, split, seed, options.decoder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise data.InputError(
            f"--split {options.split}: expected JSON with train, val and test, files below --data.root ({error})"
        ) from error


def _measure(model, data, files: list[str] | None, folder: Path) -> dict:
    import numpy as np

    from tf_reference import evaluate

    loss, accuracy = evaluate.loss_and_accuracy(model, data)
    seen = list(evaluate.predictions(model, data))
    # the paper reads the test batches once more for the next two; the published ones are others each time
    again = seen if files else evaluate.predictions(model, data)
    metrics = evaluate.precision_recall_accuracy(again)
    print(", ".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
    labels, probabilities = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    matrix, _ = evaluate.confusion_and_report(labels, probabilities, folder)
    names = files or [""] * len(labels)  # where each reading cuts anew, nobody knows which file an image is
    rows = [f"{name},{label},{prob:.9g}" for name, label, prob in zip(names, labels, probabilities, strict=True)]
    (folder / "predictions.csv").write_text("\n".join(["path,label,prob_real", *rows, ""]), encoding="utf-8")
    return {"loss": loss, "keras_accuracy": accuracy, **metrics, "confusion_matrix": matrix.tolist()}


def _write_results(folder, options, seed, results, sizes, history=None) -> None:
    import keras
    import tensorflow as tf

    from tf_reference.train import write_json

    asked = {name: str(value) for name, value in vars(options).items() if value is not None and name != "output"}
    content = {
        "test": results,
        "epochs": len(history["loss"]) if history else None,
        "batches": dict(zip(("train", "cv", "test"), sizes, strict=True)) if sizes else None,
        "seed": seed,
        "arguments": asked,
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
    }
    write_json(folder / "results.json", content)


def _output(folder: Path | None) -> Path:
    """The folder asked for, or the next of tf_reference_runs/1, 2, 3, ..."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    runs = Path("tf_reference_runs")
    taken = [int(path.name) for path in runs.glob("*") if path.name.isdecimal()]
    folder = runs / str(max(taken, default=0) + 1)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
