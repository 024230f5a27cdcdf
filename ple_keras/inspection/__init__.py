"""Reports on a model's gates and tasks, comparisons of predictions, and checks of inputs."""
