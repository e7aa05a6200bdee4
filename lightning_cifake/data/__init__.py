"""From files to batches: source, decode once, split, augment."""
