"""The path of a class in pickled `kept` of FitHedge, until 0.5.0."""

from ple_keras.hedging.branched_model import Unit as Unit
