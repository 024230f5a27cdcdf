"""What the labels of a task are: probabilities, numbers, counts and amounts, or classes."""
