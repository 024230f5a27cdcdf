"""The path of a class in pickled `kept` of FitHedge, until 0.5.0."""

from ple_keras.hedging.fit_hedge import KeptWeights as KeptWeights
