"""The path of a class in pickled `kept` of FitHedge, until 0.5.0."""

from ple_keras.hedging.branch_weights import Unit as Unit
