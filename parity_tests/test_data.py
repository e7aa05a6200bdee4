"""Decoding, resizing and scaling are TensorFlow's; so is each augmentation when both are handed the same draws."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_cifake.data import augment
from lightning_cifake.data.datamodule import to_float
from lightning_cifake.data.image_file import decode_image
from lightning_cifake.data.resize import resize_bilinear
from parity_tests import tolerances
from parity_tests.real_images import cifake

RUNG = "2 images"
REAL_FILES = 2000


def made_picture(seed, size=32):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def real_files(cifake_root):
    """The bytes of 2,000 files of CIFAKE, from both classes and both parts."""
    source = cifake(cifake_root)
    chosen = np.random.default_rng(0).choice(len(source.entries), REAL_FILES, replace=False)
    return [source.read(source.entries[i].path) for i in np.sort(chosen)]


def accurate(tf, content):
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE").numpy()


def by_default(tf, content):
    """As image_dataset_from_directory decodes: decode_image, which takes no dct_method."""
    return tf.io.decode_image(content, channels=3, expand_animations=False).numpy()


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpegs_decode_bit_for_bit_as_tensorflows_accurate_decoder(claim, tf, quality, subsampling):
    content = encoded(made_picture(quality), "JPEG", quality=quality, subsampling=subsampling)
    text = "made JPEGs, 4:4:4 and 4:2:0, three qualities: values unlike TensorFlow's INTEGER_ACCURATE"
    claim.equal(text, decode_image(content), accurate(tf, content))


def test_real_files_decode_bit_for_bit_as_tensorflows_accurate_decoder(claim, tf, real_files):
    ours = np.stack([decode_image(content) for content in real_files])
    theirs = np.stack([accurate(tf, content) for content in real_files])
    text = f"{REAL_FILES:,} files of CIFAKE: values unlike TensorFlow's INTEGER_ACCURATE"
    claim.equal(text, ours, theirs)


def test_tensorflows_default_decoder_is_another(claim, tf, real_files):
    """The paper's own decoder, which image_dataset_from_directory cannot be told to change."""
    theirs = np.stack([by_default(tf, content) for content in real_files]).astype(int)
    distance = np.abs(theirs - np.stack([decode_image(content) for content in real_files]))
    files = f"TensorFlow's default JPEG decoder, {REAL_FILES:,} files of CIFAKE"
    claim.fault(f"{files}: values unlike ours", np.count_nonzero(distance), tolerances.EXACT)
    claim.figure(f"{files}: share of values unlike ours", 100 * np.mean(distance > 0), "%")
    claim.figure(f"{files}: mean distance", distance.mean(), "of 255")
    claim.figure(f"{files}: largest distance", distance.max(), "of 255")


OTHER_KINDS = [
    ("PNG", "RGB"),
    ("PNG", "RGBA"),
    ("PNG", "L"),
    ("PNG", "LA"),
    ("PNG", "P"),
    ("BMP", "RGB"),
    ("GIF", "P"),
    ("JPEG", "L"),
]


@pytest.mark.parametrize(("kind", "mode"), OTHER_KINDS)
def test_other_kinds_of_files_decode_bit_for_bit_as_tensorflow(claim, tf, kind, mode):
    """Grey JPEGs too: for these the two discrete cosine transforms of TensorFlow differ, so the accurate one."""
    content = encoded(made_picture(1).convert(mode), kind)
    theirs = accurate(tf, content) if kind == "JPEG" else by_default(tf, content)
    text = "PNG (five modes), BMP, GIF and grey JPEG: values unlike TensorFlow's"
    claim.equal(text, decode_image(content), theirs)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (33, 47), (800, 600), (7, 5), (1, 1), (500, 31)])
def test_resize_is_tf_image_resize(claim, tf, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    theirs = tf.image.resize(pixels, (32, 32)).numpy()
    text = "resize to 32x32 from seven sizes, values up to 255"
    claim(text, np.abs(resize_bilinear(pixels, 32) - theirs).max(), tolerances.RESIZE_FLOAT32)


def test_pillows_resize_is_seen(claim, tf):
    """It smooths before it makes smaller."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    theirs = tf.image.resize(np.asarray(picture), (32, 32)).numpy()
    pillows = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), float)
    claim.fault("resize by Pillow", np.abs(pillows - theirs).max(), tolerances.RESIZE_FLOAT32)


def test_scaling_is_bit_for_bit_x_over_255(claim, tf):
    """All 256 values, as the paper's ``data.map`` scales them."""
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    data = tf.data.Dataset.from_tensors(every.astype(np.float32)).map(lambda x: x / 255)
    theirs = next(data.as_numpy_iterator())
    scaled = as_theirs(to_float(torch.from_numpy(every)))
    claim.equal("x / 255 in float32 by data.map, every x: values unlike TensorFlow's", scaled, theirs)
    # what TensorFlow's graph optimizer makes of a division by a constant, though not inside a dataset
    product = tf.function(lambda x: x / 255)(tf.constant(every, tf.float32)).numpy()
    moved = np.count_nonzero((scaled != product)[..., 0])
    claim.fault("x / 255 inside tf.function, which is x * (1 / 255): of 256 values unequal", moved, tolerances.EXACT)


def batch():
    return np.random.default_rng(3).random((8, 32, 32, 3), np.float32)


def ours(values):
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def as_theirs(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("delta", [-0.1, 0.0, 0.07])
def test_brightness_is_tf_images(claim, tf, delta):
    theirs = tf.image.adjust_brightness(batch(), delta).numpy()
    actual = as_theirs(augment.adjust_brightness(ours(batch()), torch.tensor([delta])))
    claim("brightness, the same draw", np.abs(actual - theirs).max(), tolerances.AUGMENTATION_FLOAT32)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_contrast_is_tf_images(claim, tf, factor):
    theirs = tf.image.adjust_contrast(batch(), factor).numpy()
    actual = as_theirs(augment.adjust_contrast(ours(batch()), torch.tensor([factor])))
    claim("contrast, the same draw", np.abs(actual - theirs).max(), tolerances.AUGMENTATION_FLOAT32)


def test_torchvisions_contrast_is_seen(claim, tf):
    """It takes the mean of the grey image, and clips."""
    from torchvision.transforms.v2 import functional

    theirs = tf.image.adjust_contrast(batch(), 1.1).numpy()
    moved = np.abs(as_theirs(functional.adjust_contrast(ours(batch()), 1.1)) - theirs).max()
    claim.fault("contrast by torchvision", moved, tolerances.AUGMENTATION_FLOAT32)


def test_flips_are_tf_images(claim, tf):
    chosen = torch.tensor([True, False] * 4)
    none = torch.zeros(8, dtype=torch.bool)
    left_right = np.where(chosen[:, None, None, None], tf.image.flip_left_right(batch()).numpy(), batch())
    up_down = np.where(chosen[:, None, None, None], tf.image.flip_up_down(batch()).numpy(), batch())
    claim.equal("flip left to right", as_theirs(augment.flip(ours(batch()), chosen, none)), left_right)
    claim.equal("flip upside down", as_theirs(augment.flip(ours(batch()), none, chosen)), up_down)
