"""From probabilities to figures: metrics, the report, the pictures."""
