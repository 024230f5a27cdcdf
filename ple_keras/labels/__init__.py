"""Sample spaces of tasks, and checks of labels."""
