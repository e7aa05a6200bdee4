"""How far the two frameworks may be apart, one constant a claim, each with its reason.

Float64 tolerances are a few hundred times what was measured, so that another processor's order of summation passes and
a real difference, which is larger by many powers of ten, does not.
"""

# Adam's update of a float64 weight of size 1, after 100 steps: measured 4e-16 against the formula
ADAM_FLOAT64 = 1e-13

# Output of the whole network on perturbed weights, float64: measured 7e-16 in eval mode
FORWARD_EVAL_FLOAT64 = 1e-12
# and 4e-13 in train mode, where each batch norm divides by a standard deviation it has just summed up
FORWARD_TRAIN_FLOAT64 = 1e-10
# Running statistics after one step, float64: measured 7e-15
RUNNING_STATISTICS_FLOAT64 = 1e-12

# One augmentation, float32 images in [0, 1], the same draws on both sides: a few roundings of 6e-8
AUGMENTATION_FLOAT32 = 5e-7

# Bilinear resize in float32 of values up to 255, half a unit in the sixth digit
RESIZE_FLOAT32 = 1e-4

# Ratios of counts, and a mean over 64 losses, in float32 on Keras's side
METRIC_FLOAT32 = 1e-6
