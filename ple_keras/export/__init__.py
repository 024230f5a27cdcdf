"""Export of models to files that run without Keras."""
