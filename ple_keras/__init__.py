"""Multi-task learning for Keras 3: MMoE, CGC, PLE and hedged branches as layers."""

from ple_keras.callbacks.gate_weights_logger import GateWeightsLogger
from ple_keras.callbacks.loss_weight_schedule import LossWeightSchedule
from ple_keras.columns.columns import Columns
from ple_keras.export.export_onnx import export_onnx
from ple_keras.heads.binary_heads import BinaryHead, ProductHead
from ple_keras.heads.head import Head
from ple_keras.heads.multiclass_head import MulticlassHead
from ple_keras.heads.quantile_head import QuantileHead
from ple_keras.heads.ranking_head import RankingHead
from ple_keras.heads.regression_heads import CountHead, RegressionHead, TweedieHead
from ple_keras.heads.task_heads import TaskHeads
from ple_keras.hedging.fit_hedge import FitHedge, fit_hedge
from ple_keras.inspection.check_inputs import check_inputs
from ple_keras.inspection.compare_predictions import compare_predictions
from ple_keras.inspection.gates import gate_report, gate_weights
from ple_keras.inspection.mix_predictions import mix_predictions
from ple_keras.inspection.task_report import task_report
from ple_keras.layers.cgc_block import CGCBlock
from ple_keras.layers.expert_block import ExpertBlock
from ple_keras.layers.gate import Gate
from ple_keras.layers.hedged_block import HedgedBlock
from ple_keras.layers.number_embedding import NumberEmbedding
from ple_keras.layers.ple_block import MMoEBlock, PLEBlock
from ple_keras.layers.sequential_block import SequentialBlock
from ple_keras.layers.shared_bottom_block import SharedBottomBlock
from ple_keras.layers.sparse_embedding import SparseEmbedding
from ple_keras.layers.stream_features import StreamFeatures
from ple_keras.losses.masked_loss import MaskedLoss
from ple_keras.metrics.array_metrics import grouped_auc
from ple_keras.metrics.masked_metric import MaskedMetric
from ple_keras.metrics.sums import Calibration, LogitAUC, NormalizedEntropy, PoissonDeviance
from ple_keras.models.multi_task_model import MultiTaskModel, MultiTaskTraining
from ple_keras.optimizers.sparse_adagrad import SparseAdagrad
from ple_keras.optimizers.table_optimizer import table_optimizer
from ple_keras.plots.gates import plot_gate_history, plot_gate_weights
from ple_keras.tabular.tabular_model import TabularModel
from ple_keras.transfer.fill_new_rows import fill_new_rows
from ple_keras.transfer.transfer_weights import transfer_weights

__version__ = "0.9.0"

__all__ = [
    "BinaryHead",
    "CGCBlock",
    "Calibration",
    "Columns",
    "CountHead",
    "ExpertBlock",
    "FitHedge",
    "Gate",
    "GateWeightsLogger",
    "Head",
    "HedgedBlock",
    "LogitAUC",
    "LossWeightSchedule",
    "MMoEBlock",
    "MaskedLoss",
    "MaskedMetric",
    "MultiTaskModel",
    "MultiTaskTraining",
    "MulticlassHead",
    "NormalizedEntropy",
    "NumberEmbedding",
    "PLEBlock",
    "PoissonDeviance",
    "ProductHead",
    "QuantileHead",
    "RankingHead",
    "RegressionHead",
    "SequentialBlock",
    "SharedBottomBlock",
    "SparseAdagrad",
    "SparseEmbedding",
    "StreamFeatures",
    "TabularModel",
    "TaskHeads",
    "TweedieHead",
    "check_inputs",
    "compare_predictions",
    "export_onnx",
    "fill_new_rows",
    "fit_hedge",
    "gate_report",
    "gate_weights",
    "grouped_auc",
    "mix_predictions",
    "plot_gate_history",
    "plot_gate_weights",
    "table_optimizer",
    "task_report",
    "transfer_weights",
]
