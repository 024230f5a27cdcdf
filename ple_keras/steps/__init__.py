"""Steps of a model: traced on PyTorch, and observed for reports and hedging."""
