"""Which examples have a label, and checks of labels."""
