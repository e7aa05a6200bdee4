"""What a model looks at in an image: maps of any model, and how much of them is left with random weights.

explainer = explainer_of(open_model("best.ckpt"), How())
maps = explainer.maps(pixels)      # (S, S, 3) uint8 -> {"grad_cam": (S, S), "occlusion": (S, S)}
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lightning_cifake.assessment.images import LabelledImages
from lightning_cifake.assessment.models import Model
from lightning_cifake.assessment.originals import prepared
from lightning_cifake.data.resize import Picture, resize_square
from lightning_cifake.deploy.answers import decide
from lightning_cifake.deploy.larger import Larger, Resized, under
from lightning_cifake.deploy.load import Image, Loaded, decode, take
from lightning_cifake.errors import UserError
from lightning_cifake.evaluation.occlusion import Baseline, occlusion_map, patch_and_stride
from lightning_cifake.evaluation.predictions import prob_of
from lightning_cifake.text import printable

Method = Literal["grad_cam", "occlusion"]
METHODS: tuple[Method, ...] = get_args(Method)


class How(NamedTuple):
    """Which maps, in the words of the command line; None is the default of each.

    Attributes:
        method: one of METHODS; by default both, of an exported model occlusion alone.
        layer: whose map Grad-CAM takes.
        patch, stride, baseline: of :func:`occlusion_map`.
    """

    method: Method | None = None
    layer: str | None = None
    patch: int | None = None
    stride: int | None = None
    baseline: Baseline = "mean"


@dataclass(frozen=True)
class Explainer:
    """Asks a model for maps.

    Attributes:
        logits_of: (N, S, S, 3) uint8 -> (N,) float32 logits.
        image_size: S.
        how: the maps, the defaults filled in.
        methods: in the order that they are drawn in.
        layers: whose map Grad-CAM takes, one for each network in it; empty without Grad-CAM.
        network: of a checkpoint, as it answers, else None.
        note: why Grad-CAM is left out though a checkpoint was given, None if it is not.
    """

    logits_of: Callable[[np.ndarray], np.ndarray]
    image_size: int
    how: How
    methods: tuple[Method, ...]
    layers: tuple[str, ...] = ()
    network: Any = None
    note: str | None = None

    def maps(self, pixels: np.ndarray, columns: int = 1) -> dict[str, np.ndarray]:
        """(S, S, 3) uint8 -> method -> (S, S) float, above 0 where the model finds REAL.

        Of (T, S, S, 3) tiles whose mean logit decides it is (R S, C S), put together in rows of ``columns``: each
        tile's own map by their number, as covering a patch of one moves the mean by that much less.
        """
        tiles = pixels.reshape(-1, *pixels.shape[-3:])
        found = [{method: self._map(method, tile) for method in self.methods} for tile in tiles]
        return {
            method: side_by_side(np.stack([each[method] for each in found]), columns) / len(tiles)
            for method in self.methods
        }

    def _map(self, method: Method, pixels: np.ndarray) -> np.ndarray:
        if method == "occlusion":
            return occlusion_map(self.logits_of, pixels, self.how.patch, self.how.stride, self.how.baseline)
        import torch

        from lightning_cifake.assessment.gradcam import grad_cam
        from lightning_cifake.data.datamodule import to_float

        images = to_float(torch.from_numpy(pixels[None]))
        return grad_cam(self.network, images, self.how.layer)[0].numpy().astype(np.float64)

    def with_random_weights(self) -> "Explainer":
        """The same of the network as it is before any training.

        Raises:
            UserError: an exported model; a network that cannot be built anew.
        """
        if self.network is None:
            raise UserError("--sanity: expected a checkpoint, whose network can be built anew, got an exported model")
        from lightning_cifake.assessment.gradcam import with_random_weights

        network = with_random_weights(self.network)
        return Explainer(
            _logits_of(network), self.image_size, self.how, self.methods, self.layers, network, self.note
        )  # fmt: skip


def explainer_of(model: Model, how: How) -> Explainer:
    """What explains a model: both maps of a checkpoint or a Keras file, occlusion of an exported one.

    Raises:
        UserError: a method, a layer, a patch or a stride that the model does not have.
    """
    size = model.image_size
    patch, stride = patch_and_stride(size, how.patch, how.stride)
    how = how._replace(patch=patch, stride=stride)
    classifier = getattr(model, "classifier", None)
    if classifier is None:
        for flag, asked in (("--method grad_cam", how.method == "grad_cam"), ("--layer", how.layer is not None)):
            if asked:
                raise UserError(
                    f"{flag}: expected a checkpoint, got {printable(model.name)}, an exported model, which has no "
                    "gradient"
                )
        return Explainer(model.logits, size, how, ("occlusion",))
    network = classifier.inference_network
    if how.method == "occlusion":
        return Explainer(model.logits, size, how, ("occlusion",), network=network)
    from lightning_cifake.assessment.gradcam import layers_of

    try:
        layers = tuple(layers_of(network, size, how.layer))
    except UserError as error:
        if how.method is not None or how.layer is not None:
            raise
        return Explainer(model.logits, size, how, ("occlusion",), network=network, note=f"without Grad-CAM: {error}")
    return Explainer(model.logits, size, how, (how.method,) if how.method else METHODS, layers, network)


def _logits_of(network: Any) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    from lightning_cifake.data.datamodule import to_float

    @torch.inference_mode()
    def logits_of(images: np.ndarray) -> np.ndarray:
        return network(to_float(torch.from_numpy(images))).numpy()

    return logits_of


def side_by_side(tiles: np.ndarray, columns: int) -> np.ndarray:
    """(T, S, S, ...) -> (R S, C S, ...), R x C = T."""
    rows = [np.concatenate(list(tiles[at : at + columns]), axis=1) for at in range(0, len(tiles), columns)]
    return np.concatenate(rows)


class _Square:
    """A model that is given what :func:`resize_square` makes, S x S, which an exported one would make of it itself."""

    def __init__(self, model: Model) -> None:
        self.image_size, self.logits = model.image_size, model.logits

    def prepare(self, picture: Picture) -> np.ndarray:
        return resize_square(picture, self.image_size)


def as_seen(model: Model, larger: Larger) -> Resized:
    """The policy, whose ``prepare`` gives (S, S, 3) uint8, or (T, S, S, 3) of tiles and of the middle."""
    return under(_Square(model), larger)


def images_as_seen(model: Model, images: LabelledImages, larger: Larger) -> Iterator[tuple[np.ndarray, int]]:
    """Of each of N labelled images the pixels, as :class:`Explanation` has them, and the columns.

    Raises:
        UserError: a file that could be read is damaged or gone now.
    """
    if larger == "resize":
        for at in range(len(images)):
            yield images.pixels(slice(at, at + 1))[0], 1
        return
    policy, size = as_seen(model, larger), model.image_size
    encodings = images.source.encodings
    sizes = [(size, size)] * len(images)
    if len(encodings):
        sizes = [(int(each["height"]), int(each["width"])) for each in encodings[images.indices]]
    for pixels, (height, width) in zip(prepared(images, policy.prepare), sizes, strict=True):
        yield pixels, policy.columns(height, width)


class Explanation(NamedTuple):
    """Of one image.

    Attributes:
        name: its path.
        pixels: (S, S, 3) uint8, as the model sees it; (T, S, S, 3) of tiles, and of the middle.
        columns: how many tiles stand side by side; 1 of no tiles.
        verdict: AI or REAL.
        prob_real: P(REAL).
        maps: method -> (S, S) float64; (R S, C S) of tiles.
        warning: why the answer deserves less trust.
    """

    name: str
    pixels: np.ndarray
    columns: int
    verdict: str
    prob_real: float
    maps: dict[str, np.ndarray]
    warning: str | None


def explanations(
    model: Model, explainer: Explainer, images: Iterator[Image], larger: Larger = "resize"
) -> Iterator[Explanation | Loaded]:
    """One an image, in order, as it is known; one that cannot be read comes as it was loaded, with its error.

    Raises:
        UserError: something that is no image at all; the model fails; no such policy for larger pictures.
    """
    policy = as_seen(model, larger)
    for number, image in enumerate(images):
        loaded = decode(take(image, number, policy.prepare), policy.prepare)
        if loaded.pixels is None:
            yield loaded
            continue
        pixels = np.array(loaded.pixels)  # torch wants them writable
        height, width = loaded.size or pixels.shape[:2]
        columns = policy.columns(height, width)
        warnings = [each for each in (loaded.warning, policy.warning(height, width)) if each]
        prob = float(prob_of(policy.logits([pixels]))[0])
        verdict, maps = decide(prob, model.threshold), explainer.maps(pixels, columns)
        yield Explanation(loaded.name, pixels, columns, verdict, prob, maps, "; ".join(warnings) or None)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's, of two maps of one size, from -1 to 1; None where one of them is the same all over."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(one.ravel(), other.ravel()).statistic)


class Sanity:
    """How like a model's maps are to those of its network with random weights (Adebayo et al., NeurIPS 2018).

    A method whose maps stay the same draws the image, and not what the model has learnt.
    """

    def __init__(self, explainer: Explainer) -> None:
        self._random = explainer.with_random_weights()
        self._found: dict[str, list[tuple[float | None, float | None]]] = {each: [] for each in explainer.methods}

    def add(self, pixels: np.ndarray, maps: dict[str, np.ndarray], columns: int = 1) -> None:
        for method, other in self._random.maps(pixels, columns).items():
            own = maps[method]
            self._found[method].append((rank_correlation(own, other), rank_correlation(np.abs(own), np.abs(other))))

    def figures(self) -> dict[str, dict[str, Any]]:
        """Method -> ``images``, and the means over those where it is defined, else None: ``rank_correlation``, and
        ``rank_correlation_of_absolute_values``, which asks where and not which way."""
        return {
            method: {
                "images": len(pairs),
                "rank_correlation": _mean([signed for signed, _ in pairs]),
                "rank_correlation_of_absolute_values": _mean([absolute for _, absolute in pairs]),
            }
            for method, pairs in self._found.items()
        }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
