"""What concerns Keras itself: building, copying, saving, freezing and quantizing layers."""
