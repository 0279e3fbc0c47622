"""What a model is worth: held-out bits per byte, and lm-eval's tasks."""
