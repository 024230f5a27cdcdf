"""Entries of a level's weights file beside its arrays, and their checks."""

import keras

from ple_keras._keras.internals import load_error
from ple_keras._keras.quantization import load_modes, save_modes
from ple_keras._keras.saving import check_names, read_text, save_names, write_text
from ple_keras._typing import Store
from ple_keras.layers._level.gate_inputs import STREAM, GateInputs
from ple_keras.layers._level.level import Level
from ple_keras.layers._level.wiring import LevelWiring

EXPERTS_KEY, GATE_READS_KEY = "experts", "gate_reads"


class LevelFiles(keras.Layer):
    """Mixin of CGCBlock that refuses files whose arrays fit, but mean something else."""

    stack_experts: bool
    _wiring: LevelWiring
    _gate_inputs: GateInputs
    _level: Level

    def save_own_variables(self, store: Store) -> None:
        save_names(store, self._wiring.names)
        write_text(store, EXPERTS_KEY, self._level.bank.kind)
        write_text(store, GATE_READS_KEY, self._gate_inputs.reads)
        save_modes(self, store)

    def load_own_variables(self, store: Store) -> None:
        check_names(store, self._wiring.names, self)
        self._check_experts(store)
        self._check_gate_reads(store)
        load_modes(self, store)

    def _check_experts(self, store: Store) -> None:
        """Refuse stacked experts for copied ones, and vice versa. Files of 0.1.0 do not say it."""
        saved, kind = read_text(store, EXPERTS_KEY), self._level.bank.kind
        if saved not in (None, kind):
            reason = (
                f"The file has {saved} experts, but {self.name!r} has {kind} experts. Build the "
                "block with the same stack_experts, expert_block and input widths as in the file. "
                "transfer_weights then copies the weights to other blocks. "
                f"Received: stack_experts={self.stack_experts}"
            )
            raise load_error(self, store, reason)

    def _check_gate_reads(self, store: Store) -> None:
        """Refuse gates that read another input. Those of files of 0.1.0 read their streams."""
        saved, reads = read_text(store, GATE_READS_KEY) or STREAM, self._gate_inputs.reads
        if saved != reads:
            reason = (
                f"The gates of the file have gate_reads={saved!r}, but {self.name!r} has "
                f"gate_reads={reads!r}. Build the block with the gate_reads of the file. "
                "transfer_weights then copies the experts to other blocks. "
                f"Received: gate_reads={reads!r}"
            )
            raise load_error(self, store, reason)
