"""The chain demo and the ablation of its terms: which run starts from which, with which seeds and weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import chain_demo, term_ablation
from experiments.chain_report import ROWS
from experiments.loss_table import TermValues
from experiments.term_ablation import ablation_tables, variant_row, variants
from mmig.methods.mmig.objective import TERMS


def option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would run."""
    found: list[list[str]] = []
    for module in (chain_demo, term_ablation):
        monkeypatch.setattr(module, "run", lambda title, *command: found.append([*command]), raising=False)
    return found


def test_each_stage_starts_from_the_last_and_the_baseline_sees_the_same_samples(commands: list[list[str]]) -> None:
    chain_demo.train_chain("c", "data.yaml", seed=3, steps=[6, 7, 8, 9, 10])
    starts = {option(command, "--name"): option(command, "--init_from") for command in commands}
    assert starts == {
        "c-stage1": None,
        **{f"c-stage{stage}": f"runs/c-stage{stage - 1}" for stage in range(2, 6)},
        "c-instruction3": None,
        "c-instruction4": "runs/c-instruction3",
        "c-instruction5": "runs/c-instruction4",
    }
    seeds = {option(command, "--name"): option(command, "--data.init_args.seed") for command in commands}
    assert len({seeds[f"c-stage{stage}"] for stage in range(1, 6)}) == 5
    assert all(seeds[f"c-instruction{stage}"] == seeds[f"c-stage{stage}"] for stage in (3, 4, 5))
    steps = [option(command, "--trainer.max_steps") for command in commands]
    assert steps == ["6", "7", "8", "9", "10", "8", "9", "10"]


@pytest.mark.parametrize(
    ("given", "steps"),
    [([], [*chain_demo.STEPS]), (["--steps", "7"], [7] * 5), (["--steps", *"12345"], [1, 2, 3, 4, 5])],
)
def test_steps_are_given_for_all_stages_or_for_each(
    monkeypatch: pytest.MonkeyPatch, commands: list[list[str]], given: list[str], steps: list[int]
) -> None:
    monkeypatch.setattr(chain_demo, "tables", lambda chains: [])
    chain_demo.main(["--name", "c", *given])
    trained = [command for command in commands if "configs/demo/instruct_pix2pix.yaml" not in command]
    found = [option(command, "--trainer.max_steps") for command in trained if command[0] == "train.py"]
    assert found == [str(number) for number in steps]


def test_two_numbers_of_steps_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        chain_demo.main(["--steps", "1", "2"])
    assert "--steps: expected one number or 5, found 2" in capsys.readouterr().err


def test_every_row_is_evaluated_on_the_same_edits(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_demo, "tables", lambda chains: [])
    chain_demo.main(["--name", "c", "--steps", "7", "--limit", "9"])
    evaluations = [command for command in commands if command[0] == "evaluate.py"]
    assert [option(command, "--out") for command in evaluations] == [row.folder("c") for row in ROWS]
    assert {(option(c, "--limit"), option(c, "--split"), option(c, "--seeds")) for c in evaluations} == {
        ("9", "test", "1")
    }


def test_variants_differ_in_their_weights_alone() -> None:
    weights = dict.fromkeys(TERMS, 0.5)
    found = variants(weights)
    assert found["no sdm"] == {**weights, "sdm": 0.0}
    assert found["no as, ar"] == {**weights, "as": 0.0, "ar": 0.0}
    assert set(found["paper"].values()) == {1.0}
    assert found["all"] == weights
    assert len(found) == len(TERMS) + 3
    assert len({variant_row(title).run for title in found}) == len(found)
    assert variant_row("no as, ar").folder("c") == "runs/c-ablation-no-as-ar/evaluation/generated"


def test_ablation_trains_from_stage_four_with_the_seed_of_stage_five(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term_ablation, "compare_runs", lambda *arguments: {})
    monkeypatch.setattr(term_ablation, "ablation_tables", lambda *arguments: [])
    term_ablation.main(["--chain", "c", "--steps", "7", "--terms", "fg", "mmsm"])
    trainings = [command for command in commands if command[0] == "train.py"]
    assert [option(command, "--name") for command in trainings] == [
        "c-ablation-all",
        "c-ablation-no-fg",
        "c-ablation-no-mmsm",
    ]
    assert {option(command, "--init_from") for command in trainings} == {"runs/c-stage4"}
    assert {option(command, "--data.init_args.seed") for command in trainings} == {str(chain_demo.stage_seed(0, 5))}
    given = json.loads(option(trainings[1], "--model.init_args.loss_weights") or "")
    assert given.keys() == set(TERMS)
    assert given["fg"] == 0
    assert given["bg"] > 0


def test_differences_are_variant_minus_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for row, success in ((variant_row("all"), 1.0), (variant_row("no fg"), 0.5)):
        folder = Path(row.folder("c"))
        folder.mkdir(parents=True)
        values: dict[str, Any] = dict.fromkeys(("preservation", "response_accuracy", "caption_accuracy"), 1.0)
        edit = {"key": "one", "seed": 0, "edit_type": "add", "values": {"success": success, **values}}
        lines = [json.dumps(edit | {"key": key}) + "\n" for key in ("one", "two")]
        (folder / "samples.jsonl").write_text("".join(lines))
    whole: TermValues = {"fg": {"one": 1.0, "two": 1.0}, "sdm": {"one": 0.25, "two": 0.25}}
    without: TermValues = {"fg": {"one": 1.5, "two": 1.5}, "sdm": {"one": 0.125, "two": 0.125}}
    losses = {variant_row("all").run_directory("c"): whole, variant_row("no fg").run_directory("c"): without}
    of_losses, of_edits = ablation_tables("c", ["no fg"], losses, markdown=False)
    assert [[*column.cells] for column in of_losses.columns] == [
        ["no fg"],
        ["+0.5000 [+0.5000, +0.5000]"],
        ["-0.1250 [-0.1250, -0.1250]"],
    ]
    assert [*of_edits.columns[1].cells] == ["-50.0 [-50.0, -50.0]"]
