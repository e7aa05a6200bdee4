"""How far the two frameworks may be apart, one constant a claim, each with its reason.

Float64 tolerances are a few hundred times what was measured, so that another processor's order of summation passes and
a real difference, which is larger by many powers of ten, does not.
"""


class Tolerance(float):
    """A bound with its reason, which the report prints; anywhere else a float.

    Attributes:
        name: the constant's own, as the tables show it.
        reason: why so much and no more.
    """

    name: str
    reason: str

    def __new__(cls, value: float, reason: str, name: str = "") -> "Tolerance":
        made = super().__new__(cls, value)
        made.name, made.reason = name, reason
        return made


EXACT = Tolerance(0.0, "a count of what is unequal: nothing may be")

# rung 0: the reference
FIRST_SPREAD = Tolerance(
    6.0,
    "the ratio of two spreads less 1, in standard deviations of what chance makes of it: of 56 kernels drawn alike one "
    "is so far off once in nine million times",
)

# rung 2: images
AUGMENTATION_FLOAT32 = Tolerance(
    5e-7, "one augmentation of float32 images in [0, 1], the same draws on both sides: a few roundings of 6e-8"
)
RESIZE_FLOAT32 = Tolerance(1e-4, "bilinear resize in float32 of values up to 255: half a unit in the sixth digit")
KS_DISTANCE = Tolerance(
    0.085, "two samples of 2,000 draws of one distribution come further apart once in a million times (Smirnov)"
)
FLIP_RATE = Tolerance(0.02, "two shares of 32,000 flips each: five standard deviations of their difference")
FLIP_SPREAD = Tolerance(
    0.25,
    "ratio of two variances of 2,000 counts each, less 1: five standard deviations; one flip a batch would give 15",
)
RANGE = Tolerance(
    0.015,
    "extremes of 2,000 draws of brightness and contrast together: each side comes within .005 or so of the corner that "
    "the two allow, so the two within three times that of each other",
)
RECOVERED_FLOAT32 = Tolerance(
    5e-6, "a draw recovered from an image's mean or deviation in float32, relative: some hundred roundings of 6e-8"
)

# rung 3: activations
STAGE_FLOAT64 = Tolerance(
    1e-12, "largest value of a stage 1: measured up to 2e-13, in train mode behind the head's batch norm"
)
STAGE_FLOAT32_EVAL = Tolerance(1e-5, "a few dozen roundings of 6e-8 pile up through 50 layers")
STAGE_FLOAT32_TRAIN = Tolerance(5e-5, "measured 2e-5; every batch norm divides by a deviation it has just summed up")
FORWARD_EVAL_FLOAT64 = Tolerance(
    1e-12, "probability of the whole network on perturbed weights: measured 7e-16 in eval mode"
)
FED_FLOAT32 = Tolerance(
    1e-4, "float32 probabilities: bytes are scaled to [0, 1] and back to what the model was fed, each step rounded"
)
FORWARD_TRAIN_FLOAT64 = Tolerance(
    1e-10,
    "probability in train mode: measured 4e-13; each batch norm divides by a standard deviation it has just summed up",
)
DROPOUT_RATE = Tolerance(0.0035, "two shares of 1,048,576 units each: five standard deviations of their difference")
DROPOUT_SPREAD = Tolerance(
    0.31, "ratio of two variances of 1,024 counts each, less 1: five standard deviations; one draw for all gives 1,000"
)
HALF_STAGE = Tolerance(
    1.5,
    "factor, Lightning's distance from float64 over TensorFlow's: measured 0.78 to 1.06 over four batches, and 0.70 to "
    "1.05 on a GPU; both round "
    "each stage to 8 bits (bf16) or 11 (fp16), at other places and in another order of summation; of one batch's "
    "logits the quotient was 0.62 to 1.3, by chance: its images have most of their error in common",
)

# rung 4: gradients
RUNNING_STATISTICS_FLOAT64 = Tolerance(1e-12, "running mean and variance after one step: measured 7e-15")
GRADIENT_FLOAT64 = Tolerance(
    1e-10, "one parameter's gradient, relative norm: rounding grows on the way back through 54 batch norms"
)
MAP_FLOAT64 = Tolerance(
    1e-12, "a map of Grad-CAM in eval mode, relative to its largest value: measured 3e-15, back through 13 blocks"
)
LOSS_FLOAT64 = Tolerance(1e-12, "mean of 32 losses of size 1, behind a forward pass in train mode")
LOSS_FLOAT32 = Tolerance(1e-5, "mean of 32 losses of size 1, behind a forward pass in train mode in float32")
GRADIENT_FLOAT32 = Tolerance(
    1e-2, "all gradients as one vector, relative: float32 against float64 within torch alone is apart by as much"
)
HALF_GRADIENT = Tolerance(
    1.5,
    "factor, as HALF_STAGE's: measured 0.91 to 1.10 over four batches, 0.94 to 1.17 on a GPU, 1.22 of one batch; "
    "the same roundings once more, "
    "back through 54 batch norms",
)
LOSS_SCALE = Tolerance(
    2e-3,
    "relative: measured up to 3.4e-4; a loss scale is a power of two and rounds nothing, and without it fp16 loses "
    "what lies below 6e-8",
)

# rung 5: optimizer
ADAM_FLOAT64 = Tolerance(1e-13, "a weight of size 1 after 100 updates: measured 4e-16 against the formula")
SCHEDULE_FLOAT64 = Tolerance(1e-14, "learning rate, relative: 10 products, each rounded by 1e-16")
SCHEDULE_FLOAT32 = Tolerance(
    1e-6, "learning rate, relative, where Keras keeps it in a float32 variable: 10 products, each rounded by 6e-8"
)
HALF_STEP = Tolerance(
    1.5,
    "factor, as HALF_STAGE's: measured 0.90 to 1.08, and 0.95 to 1.17 on a GPU; Adam's first step is a sign for each "
    "weight, wrong where rounding "
    "outweighs the gradient",
)

# rung 6: training
TRAINING_WEIGHTS_FLOAT64 = Tolerance(
    1e-8, "Adam turns a rounding of 1e-14 in a gradient near its epsilon of 1e-7 into 1e-10 of a weight"
)
TRAINING_LOSS_FLOAT64 = Tolerance(1e-8, "follows from the weights'")
TRAINING_METRICS_FLOAT64 = Tolerance(
    1e-9, "means over the steps and the validation, of losses that are closer than the worst step's"
)
EPOCH_AGAINST_ONE_ULP = Tolerance(
    10.0,
    "factor: measured 4.2, TensorFlow's difference the smaller one; two roundings of one system lie on levels a few "
    "times apart and are blown up some tens of steps apart (25 here, over seven decades: a factor of 2 in the mean)",
)
HALF_COURSE = Tolerance(
    1.5,
    "factor, as HALF_STAGE's, of a mean over the steps: measured 0.92 to 1.02 of the whole network, 0.95 and 1.03 on "
    "a GPU; two courses of one "
    "system are a factor of 1.13 apart where the last bit of one kernel is another",
)

# rung 7: metrics
METRIC_FLOAT32 = Tolerance(1e-6, "ratios of counts, and a mean over 64 losses, in float32 on Keras's side")
METRIC_FLOAT64 = Tolerance(1e-12, "ratios of counts in float64 on both sides: a few roundings of 1e-16")
KEPT_PROBABILITY = Tolerance(1e-5, "an area over 20,000 probabilities that are kept in 16 bits: steps of 1.5e-5")
AREA_FLOAT32 = Tolerance(1e-6, "areas that torchmetrics sums in float32 and ours rounds to 7 digits")
HALF_DECISIONS = Tolerance(
    3.0,
    "standard deviations of a difference of two counts: a decision within half precision's rounding of one half falls "
    "to either side by chance; measured up to 0.6",
)

# rung 8: round trip
CONTINUED_FLOAT64 = Tolerance(
    1e-9, "a weight after 5 more steps of Adam in both, float64, batches of 32, late in the schedule: measured 2.8e-13"
)
CONTINUED_MEANS_FLOAT64 = Tolerance(
    1e-7,
    "a running mean then: Keras's carries the convolution's bias with a lag, and Adam turns the rounding of a gradient "
    "that is zero into steps of that bias: measured 3.8e-11",
)

for _name, _value in list(globals().items()):
    if isinstance(_value, Tolerance):
        _value.name = _name
