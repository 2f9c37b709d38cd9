"""What is minimised: pure functions of predictions and targets."""
