"""Progressive Layered Extraction and its relatives as Keras 3 layers."""

from ple_keras.callbacks.gate_weights_logger import GateWeightsLogger as GateWeightsLogger
from ple_keras.callbacks.loss_weights import LossWeightDecay as LossWeightDecay
from ple_keras.callbacks.loss_weights import LossWeightLogger as LossWeightLogger
from ple_keras.callbacks.loss_weights import LossWeightSchedule as LossWeightSchedule
from ple_keras.callbacks.multi_task_score import MultiTaskScore as MultiTaskScore
from ple_keras.heads.binary_head import BinaryHead as BinaryHead
from ple_keras.heads.head import Head as Head
from ple_keras.heads.multiclass_head import MulticlassHead as MulticlassHead
from ple_keras.heads.product_head import ProductHead as ProductHead
from ple_keras.heads.regression_head import RegressionHead as RegressionHead
from ple_keras.heads.task_heads import TaskHeads as TaskHeads
from ple_keras.inspection.gate_report import gate_report as gate_report
from ple_keras.inspection.gate_weights import gate_weights as gate_weights
from ple_keras.inspection.gradient_conflict import gradient_conflict as gradient_conflict
from ple_keras.labels.mask_labels import mask_labels as mask_labels
from ple_keras.layers.cgc_block import CGCBlock as CGCBlock
from ple_keras.layers.expert_block import ExpertBlock as ExpertBlock
from ple_keras.layers.gate import Gate as Gate
from ple_keras.layers.mmoe_block import MMoEBlock as MMoEBlock
from ple_keras.layers.ple_block import PLEBlock as PLEBlock
from ple_keras.layers.sequential_block import SequentialBlock as SequentialBlock
from ple_keras.layers.shared_bottom_block import SharedBottomBlock as SharedBottomBlock
from ple_keras.losses.masked_loss import MaskedLoss as MaskedLoss
from ple_keras.metrics.masked_metric import MaskedMetric as MaskedMetric
from ple_keras.metrics.mtl_gain import mtl_gain as mtl_gain
from ple_keras.plots.architecture import plot_architecture as plot_architecture
from ple_keras.plots.gates import plot_gate_history as plot_gate_history
from ple_keras.plots.gates import plot_gate_weights as plot_gate_weights
from ple_keras.transfer.start_experts import start_experts as start_experts
from ple_keras.transfer.transfer_weights import transfer_weights as transfer_weights

__version__ = "0.1.0"
