"""Reports on a model's gates and tasks, gradient conflicts, and checks of inputs."""
