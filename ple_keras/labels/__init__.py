"""Names of tasks, their sample spaces, and checks of labels."""
