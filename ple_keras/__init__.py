"""Progressive Layered Extraction and its relatives as Keras 3 layers."""

from ple_keras.cgc import CGCBlock as CGCBlock
from ple_keras.experts import ExpertBlock as ExpertBlock
from ple_keras.gate import Gate as Gate
from ple_keras.heads import BinaryHead as BinaryHead
from ple_keras.heads import Head as Head
from ple_keras.heads import MulticlassHead as MulticlassHead
from ple_keras.heads import RegressionHead as RegressionHead
from ple_keras.ple import MMoEBlock as MMoEBlock
from ple_keras.ple import PLEBlock as PLEBlock
from ple_keras.ple import SharedBottomBlock as SharedBottomBlock
from ple_keras.sequential import SequentialBlock as SequentialBlock
from ple_keras.task_heads import TaskHeads as TaskHeads

__version__ = "0.1.0"
