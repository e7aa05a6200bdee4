"""The published network, optimizer and schedule. Source: paper sections 10.4 and 10.5, line by line."""

from functools import partial

import keras
from keras import layers, models
from keras.applications import ResNet50
from keras.callbacks import EarlyStopping, LearningRateScheduler
from keras.optimizers import Adam

INITIAL_LEARNING_RATE = 0.001
LR_DECAY = 0.95
PATIENCE = 3
EPOCHS = 10


def build_model(weights: str | None = "imagenet", image_size: int = 32) -> keras.Model:
    """ResNet50 without its top and the paper's head: (n, 32, 32, 3) in [0, 1] -> (n, 1), the probability of REAL.

    Args:
        weights: ``imagenet`` as published (Keras fetches them), None for random ones, or a file of Keras weights.
        image_size: height and width of the images.
    """
    base_model = ResNet50(weights=weights, include_top=False, input_shape=(image_size, image_size, 3))

    model = models.Sequential()
    model.add(base_model)
    model.add(layers.Flatten())
    model.add(layers.Dense(256, activation="relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    return model


def compile_model(model: keras.Model, learning_rate: float = INITIAL_LEARNING_RATE) -> keras.Model:
    """Adam, binary cross-entropy, accuracy.

    Keras 3 forced this to change: it compiles with XLA unless told not to, which the paper's Keras did not, and which
    trains several times slower on a CPU.
    """
    optimizer = Adam(learning_rate=learning_rate)
    model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def lr_scheduler(epoch: int, lr: float, decay: float = LR_DECAY) -> float:
    """5 % less each epoch. Called as an epoch begins: the first already trains at 9.5e-4."""
    return lr * decay


def published_callbacks(patience: int = PATIENCE, lr_decay: float = LR_DECAY) -> list[keras.callbacks.Callback]:
    """The paper's schedule and early stopping, new ones for each training."""
    lr_schedule = LearningRateScheduler(partial(lr_scheduler, decay=lr_decay))
    early_stopping = EarlyStopping(monitor="val_loss", patience=patience, restore_best_weights=True)
    return [lr_schedule, early_stopping]
