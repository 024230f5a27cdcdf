"""Task names, sample spaces, and checks of labels."""
