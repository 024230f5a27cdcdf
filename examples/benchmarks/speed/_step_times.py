"""Measurement of a case: training steps and predictions of every variant, in turns."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from _cases import Case
from _exports import available_formats
from _fresh import Fresh, measure_fresh
from _models import Variant, batch, check_comparison
from _peers import available_peers
from _timing import Seconds, measure_interleaved
from _variants import NETWORKS, build


@dataclass(frozen=True)
class Row:
    """Measurements of a variant.

    Attributes:
        table: The case and, for exported models, the format.
        variant: The variant's name.
        train: Seconds of a training step, by round. Empty if the case does not train.
        predict: Seconds of a prediction of the batch, by round.
        parameters: The number of trainable parameters.
        note: The differences to ours.
        fresh: Its first step in a new process, if requested.
    """

    table: str
    variant: str
    train: Seconds
    predict: Seconds
    parameters: int
    note: str
    fresh: Fresh | None = None


def measure_case(
    name: str, case: Case, rounds: int, xla: bool = False, has_first_step: bool = False
) -> list[Row]:
    """Measure all variants of a case and print the progress.

    Args:
        name: The case's name.
        case: Its sizes.
        rounds: Number of rounds.
        xla: See `_variants.build`.
        has_first_step: Whether to measure every variant's first step in a new process.
    """
    print(f"\ncase {name}: {case}", flush=True)
    variants = {}
    for variant in (*NETWORKS, *available_peers(case)):
        print(f"building: {variant}", flush=True)
        variants[variant] = build(variant, case, xla)
    check_comparison(case, {variant: variants[variant].model for variant in NETWORKS})
    print(
        f"multiply-adds per example: experts {case.expert_multiply_adds:,}, floor "
        f"{case.floor_multiply_adds:,} (Dense {' '.join(map(str, case.floor_widths))})"
    )
    fresh = _first_steps(case, list(variants), xla) if has_first_step else {}
    train: dict[str, Seconds] = {}
    if case.trains:
        print("training steps", flush=True)
        train = measure_interleaved(
            {key: variant.train for key, variant in variants.items()}, rounds
        )
    print("predictions", flush=True)
    predict = measure_interleaved(
        {key: variant.predict for key, variant in variants.items()}, rounds
    )
    rows = [
        Row(name, key, train.get(key, []), predict[key], v.parameters, v.note, fresh.get(key))
        for key, v in variants.items()
    ]
    return rows if case.trains else rows + _measure_exported(name, case, variants, rounds)


def _first_steps(case: Case, names: list[str], xla: bool) -> dict[str, Fresh]:
    fresh = {}
    for name in names:
        print(f"first step in a new process: {name}", flush=True)
        fresh[name] = measure_fresh(name, case, steps=0, xla=xla)
    return fresh


def _measure_exported(
    name: str, case: Case, variants: Mapping[str, Variant], rounds: int
) -> list[Row]:
    """Measure predictions of the Keras models in each of the backend's export formats."""
    models = {key: variant for key, variant in variants.items() if variant.model is not None}
    x, _ = batch(case)
    rows = []
    for form, export in available_formats().items():
        with tempfile.TemporaryDirectory() as folder:
            calls = {}
            for key, variant in models.items():
                print(f"exporting as {form}: {key}", flush=True)
                calls[key] = export(variant.model, x, Path(folder, key))
            seconds = measure_interleaved(calls, rounds)
        rows += [
            Row(f"{name} as {form}", key, [], seconds[key], variant.parameters, variant.note)
            for key, variant in models.items()
        ]
    return rows
