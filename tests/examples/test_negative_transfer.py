"""The benchmark of negative transfer: its cases, fits, intervals and regrets."""

import json
import re
import shlex
from dataclasses import replace

import keras
import numpy as np
import pytest

import ple_keras as pk
from tests.helpers import features, once
from tests.processes import EXAMPLES, ROOT

pytestmark = [pytest.mark.nightly, once]


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    with pytest.MonkeyPatch.context() as patch:
        for folder in (EXAMPLES / "benchmarks", EXAMPLES / "benchmarks" / "quality"):
            patch.syspath_prepend(folder)
        yield


class FakeStore(dict):
    """Results by case name, kind and seed."""

    def __getitem__(self, fit):
        return {"test": super().__getitem__((fit.case.name, fit.kind, fit.seed))}

    def __contains__(self, fit):
        return super().__contains__((fit.case.name, fit.kind, fit.seed))


def fits(cases, kinds, seeds):
    from _transfer_fits import Fit, Sizes

    return [Fit(case, k, seed, Sizes()) for case in cases for k in kinds for seed in range(seeds)]


def auc_scores(values):
    """Return scores of income beside noise: `{kind: AUCs by seed and weight}`."""
    from _transfer_cases import weight_cases
    from _transfer_summary import Scores

    cases = weight_cases("noise", [1.0, 10.0])
    found = FakeStore(
        {
            (case.name, kind, seed): {"income_auc": value}
            for kind, by_case in values.items()
            for case, by_seed in zip(cases, by_case, strict=True)
            for seed, value in enumerate(by_seed)
        }
    )
    seeds = len(next(iter(values.values()))[0])
    return Scores(fits(cases, list(values), seeds), found)


VALUES = {
    "single": [[0.90, 0.92], [0.90, 0.92]],
    "bottom": [[0.93, 0.93], [0.80, 0.70]],
    "ple": [[0.92, 0.93], [0.89, 0.91]],
}


def test_an_estimate_is_the_mean_and_the_t_interval():
    from _transfer_summary import Estimate
    from scipy.stats import t

    values = np.random.default_rng(0).normal(size=7)
    low, high = t.interval(0.95, 6, values.mean(), values.std(ddof=1) / np.sqrt(7))
    estimate = Estimate.of(values)
    np.testing.assert_allclose([estimate.mean, estimate.half], [values.mean(), (high - low) / 2])
    assert Estimate.of([0.5]).format() == "0.5000"


def test_a_regret_is_the_paired_difference_to_the_better_baseline():
    scores = auc_scores(VALUES)
    first, second = scores.cases
    np.testing.assert_allclose(scores.regret(first, "ple", ["income"]), [0.01, 0.0])
    np.testing.assert_allclose(scores.regret(second, "ple", ["income"]), [0.01, 0.01])
    np.testing.assert_allclose(scores.regret(second, "bottom", ["income"]), [0.10, 0.22])


def test_the_regret_of_an_error_is_positive_for_a_larger_error():
    from _transfer_cases import correlation_cases
    from _transfer_summary import Scores

    case = correlation_cases()[0]
    errors = {"single": 0.3, "bottom": 0.2, "ple": 0.25}
    store = FakeStore(
        {
            (case.name, kind, 0): {f"task_{k}_mean_squared_error": x for k in (1, 2)}
            for kind, x in errors.items()
        }
    )
    scores = Scores(fits([case], list(errors), 1), store)
    assert scores.regret(next(iter(scores.cases)), "ple", case.tasks) == pytest.approx([0.05])


def test_tables_show_differences_to_the_single_task_networks_and_the_worst_regret():
    from _transfer_summary import format_regrets, format_tables

    scores = auc_scores(VALUES)
    table, regrets = format_tables("weight", scores), format_regrets(scores)
    assert "0.7500 (-0.1600 ± " in table
    worst = [line for line in regrets.splitlines() if line.startswith("shared bottom")]
    assert "0.1600 ± " in worst[0]
    assert "next to noise, weight 10" in worst[0]


def test_options_are_compared_with_the_network_without_them():
    from _transfer_summary import format_options

    values = {
        "ple-streams": [[0.90, 0.92, 0.91], [0.90, 0.92, 0.91]],
        "ple-streams-residual": [[0.91, 0.93, 0.925], [0.90, 0.93, 0.90]],
        "ple-streams-visible": [[0.80, 0.82, 0.82], [0.70, 0.72, 0.72]],
    }
    residual, visible = format_options(auc_scores(values)).split("\n\n")
    assert "residual, over PLE, isolated, features by stream: better in 1, worse in 0" in residual
    assert [line.split("  ")[0] for line in residual.splitlines()[2:]] == [
        "weight: income next to noise, weight 1"
    ]
    assert "better in 0, worse in 2 of 2 cases" in visible
    assert "-0.0967 ± " in visible


RESULTS = ROOT / "docs" / "results"


def shown_commands(page):
    """Return the arguments of the commands of a page that print kept results."""
    lines = (RESULTS / f"{page}.md").read_text().replace("\\\n", " ").splitlines()
    commands = [line.split(".py ")[1] for line in lines if ".py --" in line and "docs/" in line]
    return [[str(ROOT / x) if "docs/" in x else x for x in shlex.split(c)] for c in commands]


def shown_tables(page):
    """Return the tables of a page."""
    text = (RESULTS / f"{page}.md").read_text()
    blocks = re.findall(r"^```text\n(.*?)\n```$", text, re.S | re.M)
    return [table for block in blocks for table in block.split("\n\n")]


@pytest.mark.parametrize(
    "pages", [["negative_transfer", "negative_transfer_tables"], ["label_root"]]
)
def test_the_pages_of_results_show_what_the_command_prints(pages, capsys):
    import negative_transfer

    assert all(negative_transfer.main(command) == 0 for command in shown_commands(pages[0]))
    printed = capsys.readouterr().out.strip("\n").split("\n\n")
    assert "min left" not in printed[0]  # nothing is trained
    shown = [table for page in pages for table in shown_tables(page)]
    assert sorted(shown) == sorted(table.strip("\n") for table in printed if table.strip("\n"))


def test_interrupted_runs_go_on_and_equal_fits_run_once(tmp_path, capsys):
    import negative_transfer

    file = tmp_path / "fits.json"
    arguments = [
        *("--setting", "weight", "--second", "noise", "--weights", "1", "10", "--seeds", "1"),
        *("--rows", "1000", "--epochs", "1", "--json", str(file)),
    ]
    assert negative_transfer.main([*arguments, "--models", "single", "trees"]) == 0
    first = capsys.readouterr().out
    assert first.count("income_auc") == len(json.loads(file.read_text())["fits"]) == 2
    all_models = [*arguments, "--models", "single", "trees", "ple-streams-residual"]
    picture = tmp_path / "picture.png"
    assert negative_transfer.main([*all_models, "--plot", str(picture)]) == 0
    second = capsys.readouterr().out
    assert second.count("income_auc") == 2
    assert "min left] weight | beside noise, weight 10 | ple-streams-residual" in second
    assert picture.read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "other.json"
    files = ["--json", str(other), str(file)]
    assert negative_transfer.main([*all_models[:-6], *files, *all_models[-4:]]) == 0
    assert "income_auc" not in capsys.readouterr().out
    assert not other.exists()


@pytest.mark.parametrize("setting", ["scarce", "correlation", "tasks"])
def test_every_model_of_a_setting_can_be_trained(setting):
    from _transfer_fits import Fit, Sizes
    from negative_transfer import list_cases, parse

    case = list_cases(parse(["--quick", "--setting", setting]))[-1]
    kinds = {"scarce": ["single", "ple-no-expert", "ple-visible", "ple-gate-dropout"]}
    for kind in kinds.get(setting, ["mmoe-levels", "bottom-uncertainty", "trees"]):
        record = Fit(case, kind, 0, Sizes(rows=1000, epochs=1)).run()
        assert sorted(record["test"]) == [f"{task}_mean_squared_error" for task in case.tasks]
        assert np.isfinite(list(record["test"].values())).all()


def test_networks_have_about_the_same_number_of_parameters():
    from _data import Dataset
    from _networks import NETWORKS, WITHOUT_TABLES, build_network, count_parameters
    from _transfer_cases import task_cases

    case = task_cases()[1]
    setting = case.draw(1000, 0)
    sizes = {
        kind: count_parameters(
            build_network(
                kind, setting.dataset.tasks, setting.dataset, pk.RegressionHead, case.recipe
            )
        )[0]
        for kind in NETWORKS
        if kind not in ("single", *WITHOUT_TABLES)
    }
    assert isinstance(setting.dataset, Dataset)
    assert max(sizes.values()) / min(sizes.values()) < 1.05, sizes


def test_a_single_task_network_repeats_its_few_labeled_rows():
    from _transfer_cases import scarce_cases
    from _transfer_fits import _alone

    case = next(case for case in scarce_cases() if case.data == "synthetic")
    setting = case.draw(4000, 0)
    labeled = ~np.isnan(setting.dataset.train.labels["task_1"])
    assert labeled.sum() == 40
    alone = _alone(setting, "task_1")
    assert not np.isnan(alone.dataset.train.labels["task_1"]).any()
    assert alone.recipe.batch_size == 32
    steps = -(-4000 // setting.recipe.batch_size)
    assert len(alone.dataset.train) == steps * 32
    rows = {row.tobytes() for row in alone.dataset.train.inputs["numbers"]}
    assert rows == {row.tobytes() for row in setting.dataset.train.inputs["numbers"][labeled]}
    assert _alone(setting, "task_2").recipe == setting.recipe


def test_synthetic_tasks_are_related_as_described():
    from _synthetic import make_flipped, make_many, make_synthetic

    def correlations(dataset):
        labels = [dataset.train.labels[task] for task in dataset.tasks]
        return np.corrcoef(labels)[np.triu_indices(len(labels), 1)]

    assert correlations(make_synthetic(1.0, 4000)) > 0.98
    assert abs(correlations(make_synthetic(0.0, 4000))) < 0.06
    assert correlations(make_many(4, 4000))[0] > 0.5
    assert np.abs(correlations(make_many(4, 4000))[1:]).max() < 0.06
    flipped = make_flipped(4000)
    assert abs(correlations(flipped)) < 0.06
    sign = np.sign(flipped.train.inputs["numbers"][:, 0])
    restored = flipped.train.labels["task_2"] * sign
    assert np.corrcoef(restored, flipped.train.labels["task_1"])[0, 1] > 0.98


@pytest.fixture(scope="module")
def census(_scripts):
    from _census import load_census

    return load_census(2000)


@pytest.mark.parametrize("second", ["age", "unrelated", "noise"])
def test_the_second_task_is_no_input_and_its_label_is_standardized(second, census, monkeypatch):
    import _second_tasks

    monkeypatch.setattr(_second_tasks, "load_census", lambda rows, seed: census)
    dataset = _second_tasks.load_income_beside(second, 2000)
    assert dataset.tasks == ["income", second]
    labels = dataset.train.labels[second]
    assert abs(labels.mean()) < 1e-4
    assert labels.std() == pytest.approx(1, abs=1e-4)
    removed = 1 if second == "age" else 0
    for name in ("numbers", "bins"):
        columns = dataset.train.inputs[name].shape[1]
        assert columns == census.train.inputs[name].shape[1] - removed
    assert len(dataset.cardinalities["bins"]) == dataset.train.inputs["bins"].shape[1]


@pytest.fixture
def levels():
    """A CGCBlock with isolated experts, and a function that makes equal LiteratureLevels."""
    from _literature_level import LiteratureLevel

    block = pk.CGCBlock(["click", "buy"], 3, isolate_task_experts=True, stack_experts=False)
    block.build((None, 4))

    def make(option):
        level = LiteratureLevel(["click", "buy"], pk.ExpertBlock(3), option, add_shared_gate=True)
        level.build((None, 4))
        for stream in ("click", "buy", "shared"):
            expert = block.get_expert(f"{stream}/expert_0")
            level.experts[stream].set_weights(expert.get_weights())
            gate = [
                keras.ops.convert_to_numpy(weight)
                for weight in block.weights
                if f"gate-{stream}/" in weight.path
            ]
            width = level.gates[stream].get_weights()[0].shape[1]
            padded = np.full((4, width), -1e4)  # the weight of further experts is 0
            padded[:, : gate[0].shape[1]] = gate[0]
            level.gates[stream].set_weights([padded])
        return level

    return block, make


@pytest.mark.parametrize("option", ["", "visible", "residual"])
def test_a_literature_level_without_effect_of_its_option_equals_a_cgc_block(levels, option):
    block, make = levels
    level = make(option)
    if option == "residual":
        for multiple in level.multiples.values():
            multiple.assign(0.0)
    x = np.abs(features(5, 4)) + 0.1  # positive, so that the padding has its effect
    for stream, expected in block(x).items():
        actual = keras.ops.convert_to_numpy(level(x)[stream])
        np.testing.assert_allclose(actual, keras.ops.convert_to_numpy(expected), 1e-5)


def test_the_residual_adds_a_multiple_of_the_own_expert(levels):
    _, make = levels
    plain, level = make(""), make("residual")
    level.multiples["click"].assign(0.5)
    x = features(5, 4)
    difference = level(x)["click"] - plain(x)["click"]
    np.testing.assert_allclose(difference.detach(), 0.5 * plain.experts["click"](x).detach(), 1e-4)


def test_the_default_recipes_and_rates_cover_every_network():
    from _networks import ALL_NETWORKS, OPTIMIZERS
    from _transfer_cases import correlation_cases, task_cases, weight_cases
    from _transfer_rates import CANDIDATES, learning_rate

    for case in (weight_cases("age", [1.0])[0], correlation_cases()[0], task_cases()[0]):
        assert {network.block for network in ALL_NETWORKS.values()} <= case.recipe.widths.keys()
        kinds = ALL_NETWORKS.keys() - OPTIMIZERS.keys()
        assert {learning_rate(case.data, kind) for kind in kinds} <= {*CANDIDATES}
        assert replace(case.recipe, epochs=1).epochs == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--setting", "nonsense"),
        ("--models", "nonsense"),
        ("--seeds", "0"),
        ("--plot", "weight.png"),
        ("--plot", "weight.jpg", "--setting", "weight"),
        ("--json", "no_such_folder/fits.json"),
    ],
)
def test_wrong_arguments_are_refused(arguments, capsys):
    import negative_transfer

    with pytest.raises(SystemExit) as refusal:
        negative_transfer.main([*arguments])
    assert refusal.value.code == 2
    assert f"error: argument {arguments[0]}: " in capsys.readouterr().err


def test_gradient_surgery_removes_conflicts_in_weights_of_both_tasks():
    import torch
    from _gradient_surgery import combine

    def gradients(*values):
        return [None if v is None else torch.tensor(v) for v in values]

    first = gradients([1.0, 0.0], [3.0], None)
    second = gradients([-1.0, 1.0], None, [5.0])
    shared, of_first, of_second = combine([first, second])
    # g_1 + g_2 / 2 and g_2 + g_1
    np.testing.assert_allclose(shared, [0.5 + 0.0, 0.5 + 1.0])
    np.testing.assert_allclose([of_first, of_second], [[3.0], [5.0]])
    agreeing = combine([first, gradients([1.0, 1.0], None, [5.0])])
    np.testing.assert_allclose(agreeing[0], [2.0, 1.0])
