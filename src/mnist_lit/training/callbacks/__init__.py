"""What happens beside the steps of a training, a Lightning callback each."""
