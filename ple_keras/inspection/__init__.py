"""Gate weights, gate reports and gradient conflicts of a model."""
