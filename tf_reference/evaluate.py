"""Measures a model and asks it about single images. Source: paper sections 10.7 to 10.10."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import keras
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import tensorflow as tf
from keras.metrics import BinaryAccuracy, Precision, Recall
from sklearn.metrics import classification_report, confusion_matrix

from tf_reference.data import IMAGE_SIZE

NAMES = ["AI", "REAL"]  # what the paper calls FAKE (0) and REAL (1)
THRESHOLD = 0.5


def loss_and_accuracy(model: keras.Model, test: tf.data.Dataset) -> tuple[float, float]:
    """(loss, accuracy) by Keras, printed as the paper prints it."""
    test_loss, test_accuracy = model.evaluate(test, verbose=0)
    print(f"Test Accuracy: {test_accuracy * 100:.2f}%")
    return float(test_loss), float(test_accuracy)


def precision_recall_accuracy(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The paper's three metrics over batches of ((n,) labels, (n,) probabilities); precision and recall are REAL's."""
    pre = Precision()
    rec = Recall()
    acc = BinaryAccuracy()

    for y, yhat in batches:
        pre.update_state(y, yhat)
        rec.update_state(y, yhat)
        acc.update_state(y, yhat)
    return {"precision": float(pre.result()), "recall": float(rec.result()), "accuracy": float(acc.result())}


def predictions(model: keras.Model, data: tf.data.Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of ((n,) int labels, (n,) float32 probabilities of REAL), in the order of one reading of ``data``."""
    for batch in data.as_numpy_iterator():
        X, y = batch
        yield y, model.predict_on_batch(X).flatten()


def confusion_and_report(y_true: np.ndarray, y_pred_probs: np.ndarray, folder: Path) -> tuple[np.ndarray, str]:
    """Confusion matrix ((2, 2), rows true AI, REAL) and classification report; written to ``folder`` as well."""
    # Convert probabilities to binary predictions
    y_pred = y_pred_probs > THRESHOLD

    # Confusion Matrix; labels named, so that a part with one class still gives two rows
    conf_mat = confusion_matrix(y_true, y_pred, labels=[0, 1])

    # Classification Report
    class_report = classification_report(y_true, y_pred, labels=[0, 1], target_names=NAMES, zero_division=0)

    # Plot Confusion Matrix
    plt.figure(figsize=(8, 6))
    sns.heatmap(conf_mat, annot=True, fmt="d", cmap="Blues", xticklabels=NAMES, yticklabels=NAMES)
    plt.title("Confusion Matrix")
    plt.xlabel("Predicted")
    plt.ylabel("True")
    plt.savefig(folder / "confusion_matrix.png")
    plt.close()

    # Display Classification Report
    print("Classification Report:\n", class_report)
    (folder / "classification_report.txt").write_text(class_report, encoding="utf-8")
    return conf_mat, class_report


def predict_image(model: keras.Model, image_path: str, show: Path | None = None) -> float | None:
    """The probability of REAL of one file, read by OpenCV as in the paper; None, and a line, where it cannot be read.

    Args:
        model: the model.
        image_path: the file.
        show: where to write the picture that the paper shows, 800x600.
    """
    try:
        img = cv2.imread(image_path)
        if img is None:
            raise FileNotFoundError(f"Could not read the image from {image_path}")
        if show is not None:
            shown = cv2.cvtColor(cv2.resize(img, (800, 600)), cv2.COLOR_BGR2RGB)
            plt.imshow(shown)
            plt.savefig(show)
            plt.close()
        img = cv2.cvtColor(img, cv2.COLOR_BGR2RGB)
        # the paper resizes for the model in words only; as in training: to 32x32, in floats, scaled to [0, 1]
        img = cv2.resize(img.astype(np.float32), (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_LINEAR) / 255
    except Exception as e:
        print(f"Error: {e}")
        return None
    yhat = float(model.predict(img[None], verbose=0)[0, 0])
    print(f"Predicted class: {NAMES[int(yhat > THRESHOLD)]}")
    return yhat
