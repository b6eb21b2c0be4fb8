"""Lightning callbacks of a training."""
