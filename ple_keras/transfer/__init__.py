"""Transfer of trained weights to another model."""
