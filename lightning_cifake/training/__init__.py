"""What happens around the steps: early stopping, checkpoints, exact resume, guards."""
