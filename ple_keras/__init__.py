"""Progressive Layered Extraction and its relatives as Keras 3 layers."""

from ple_keras.architecture import plot_architecture as plot_architecture
from ple_keras.callbacks import LossWeightDecay as LossWeightDecay
from ple_keras.callbacks import LossWeightLogger as LossWeightLogger
from ple_keras.callbacks import LossWeightSchedule as LossWeightSchedule
from ple_keras.callbacks import MultiTaskScore as MultiTaskScore
from ple_keras.cgc import CGCBlock as CGCBlock
from ple_keras.conflict import gradient_conflict as gradient_conflict
from ple_keras.experts import ExpertBlock as ExpertBlock
from ple_keras.gain import mtl_gain as mtl_gain
from ple_keras.gate import Gate as Gate
from ple_keras.gate_logger import GateWeightsLogger as GateWeightsLogger
from ple_keras.head import Head as Head
from ple_keras.heads import BinaryHead as BinaryHead
from ple_keras.heads import MulticlassHead as MulticlassHead
from ple_keras.heads import RegressionHead as RegressionHead
from ple_keras.inspection import gate_weights as gate_weights
from ple_keras.losses import MaskedLoss as MaskedLoss
from ple_keras.metrics import MaskedMetric as MaskedMetric
from ple_keras.ple import MMoEBlock as MMoEBlock
from ple_keras.ple import PLEBlock as PLEBlock
from ple_keras.ple import SharedBottomBlock as SharedBottomBlock
from ple_keras.plots import plot_gate_history as plot_gate_history
from ple_keras.plots import plot_gate_weights as plot_gate_weights
from ple_keras.product_head import ProductHead as ProductHead
from ple_keras.report import gate_report as gate_report
from ple_keras.sample_spaces import mask_labels as mask_labels
from ple_keras.sequential import SequentialBlock as SequentialBlock
from ple_keras.task_heads import TaskHeads as TaskHeads
from ple_keras.transfer import start_experts as start_experts
from ple_keras.transfer import transfer_weights as transfer_weights

__version__ = "0.1.0"
