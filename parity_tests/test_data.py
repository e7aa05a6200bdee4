"""Splits, decoding, resizing and augmentation are TensorFlow's."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifake.data import augment
from lightning_cifake.data.decode import decode_image, resize_bilinear
from lightning_cifake.data.protocols import published_batches
from parity_tests import tolerances


@pytest.mark.parametrize("batches", [*range(1, 400, 7), 625, 3750])
def test_split_sizes_are_the_lengths_of_take_and_skip(tf, batches):
    data = tf.data.Dataset.range(batches)
    train_size, val_size, test_size = int(batches * 0.7), int(batches * 0.2), int(batches * 0.1) + 1
    train = data.take(train_size)
    val = data.skip(train_size).take(val_size)
    test = data.skip(train_size + val_size).take(test_size)
    assert published_batches(batches) == tuple(int(part.cardinality()) for part in (train, val, test))


def test_the_papers_625_batches_are_437_125_and_63():
    assert published_batches(625) == (437, 125, 63)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpegs_decode_bit_for_bit_as_tensorflows_accurate_decoder(tf, quality):
    rng = np.random.default_rng(quality)
    smooth = np.asarray(
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    )
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=quality)
    theirs = tf.io.decode_jpeg(buffer.getvalue(), channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert np.array_equal(decode_image(buffer.getvalue(), ".jpg"), theirs)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (33, 47), (800, 600), (7, 5), (1, 1), (500, 31)])
def test_resize_is_tf_image_resize(tf, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    theirs = tf.image.resize(pixels, (32, 32)).numpy()
    assert np.abs(resize_bilinear(pixels, 32) - theirs).max() < tolerances.RESIZE_FLOAT32


def batch():
    return np.random.default_rng(3).random((8, 32, 32, 3), np.float32)


def ours(values):
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def as_theirs(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("delta", [-0.1, 0.0, 0.07])
def test_brightness_is_tf_images(tf, delta):
    theirs = tf.image.adjust_brightness(batch(), delta).numpy()
    mine = as_theirs(augment.adjust_brightness(ours(batch()), torch.tensor([delta])))
    assert np.abs(mine - theirs).max() < tolerances.AUGMENTATION_FLOAT32


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_contrast_is_tf_images(tf, factor):
    theirs = tf.image.adjust_contrast(batch(), factor).numpy()
    mine = as_theirs(augment.adjust_contrast(ours(batch()), torch.tensor([factor])))
    assert np.abs(mine - theirs).max() < tolerances.AUGMENTATION_FLOAT32


def test_flips_are_tf_images(tf):
    chosen = torch.tensor([True, False] * 4)
    none = torch.zeros(8, dtype=torch.bool)
    left_right = np.where(chosen[:, None, None, None], tf.image.flip_left_right(batch()).numpy(), batch())
    up_down = np.where(chosen[:, None, None, None], tf.image.flip_up_down(batch()).numpy(), batch())
    assert np.array_equal(as_theirs(augment.flip(ours(batch()), chosen, none)), left_right)
    assert np.array_equal(as_theirs(augment.flip(ours(batch()), none, chosen)), up_down)
