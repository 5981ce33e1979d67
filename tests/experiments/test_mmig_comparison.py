"""The comparisons of MMIG's chain and of connectors as committed: sizes, orders, claims, and all of it small."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments.arms import Arm
from experiments.comparison import main, start_of, waves
from experiments.row_costs import settings_of as settings_of_row
from mmig.base.settings import instantiate
from mmig.checkpoints.checkpoint import build_module
from mmig.evaluation.claims import read_claims
from mmig.evaluation.protocol import read_protocol
from mmig.methods.mmig.mmsm import MMSM
from mmig.methods.mmig.objective import TERMS
from mmig.methods.mmig.parts import MMSMConfig
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings
from mmig.run.precision import chosen_precision
from tests.test_configs import ParsedError, ParseOnly
from tests.warm import python

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "configs/results"
CHAIN, CONNECTORS = RESULTS / "mmig", RESULTS / "connectors"
NOT_ROWS = ("base", "protocol", "phases")
STAGES = [f"stage{number}" for number in range(1, 6)]


def rows(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml") if file.stem not in NOT_ROWS)


def parsed(command: list[str]) -> dict[str, Any]:
    with pytest.raises(ParsedError) as caught:
        ParseOnly(command[1:])
    return caught.value.args[0]


def settings_of(row: str) -> dict[str, Any]:
    base, own = (
        yaml.safe_load((CONNECTORS / f"{name}.yaml").read_text(encoding="utf-8"))["model"]["init_args"]
        for name in ("base", row)
    )
    return {**base, **own, "mmsm": {**base["mmsm"], **own.get("mmsm", {})}}


def trained_beside_the_unet(row: str) -> int:
    """Parameters of what stands between the tiny language model and the tiny UNet."""
    llm, unet = (
        json.loads((ROOT / "assets/tiny" / place / "config.json").read_text(encoding="utf-8"))
        for place in ("llama", "instruct-pix2pix/unet")
    )
    text, tokens, widths = llm["hidden_size"], unet["cross_attention_dim"], unet["block_out_channels"][::-1]
    settings = settings_of(row)
    mmsm = MMSMConfig(**settings["mmsm"])
    with torch.device("meta"):
        found = [MMSM(text, widths[int(place[-1])], mmsm.dim, mmsm.heads) for place in mmsm.locations]
        if "connector" in settings:
            found.append(instantiate(ConnectorSettings, settings["connector"]).build(text, tokens))
    return sum(parameter.numel() for module in found for parameter in module.parameters())


def test_all_connectors_are_as_large_within_5_per_cent() -> None:
    counts = {row: trained_beside_the_unet(row) for row in rows(CONNECTORS)}
    assert {row for row, count in counts.items() if count == 0} == {
        "response_none",
        "instruction_none",
        "nothing_none",
    }
    expected = counts["response_mmsm"]
    assert expected == 403_528
    assert all(abs(count / expected - 1) < 0.05 for count in counts.values() if count), counts
    assert expected < 0.05 * 8_935_844  # of the UNet, which trains in every row but the frozen ones


def test_the_rows_differ_in_connector_and_wiring_alone() -> None:
    known = {"mmsm", "connector", "loss_weights", "objective"}
    for row in rows(CONNECTORS):
        wiring, _, kind = row.partition("_")
        own = yaml.safe_load((CONNECTORS / f"{row}.yaml").read_text(encoding="utf-8"))
        assert own.keys() == {"model"} and own["model"]["init_args"].keys() <= known | {"optimizer"}
        settings = settings_of(row)
        text = {"nothing": "none", "frozen": "none"}.get(wiring, wiring)
        assert settings["objective"]["denoiser_text"] == text
        if "connector" in settings:
            place = "append" if wiring in ("response", "instruction") else "replace"
            assert settings["connector"]["init_args"]["place"] == place and kind not in ("none", "mmsm")
        assert ("mmsm" in settings["loss_weights"]) == kind.startswith("mmsm")


def test_the_matched_row_differs_from_mmsms_in_its_start_alone() -> None:
    plain, matched = settings_of("response_mmsm"), settings_of("response_mmsm_matched")
    assert plain["mmsm"] | {"start": 1.0} == matched.pop("mmsm")
    assert matched == {name: value for name, value in plain.items() if name != "mmsm"}


def test_each_stage_starts_from_the_one_before_and_sees_other_samples() -> None:
    arms = [Arm(CHAIN / f"{row}.yaml", 2, ROOT / "runs") for row in (*STAGES, "no_fg")]
    found = [parsed(arm.trainings([])[-1]) for arm in arms]
    starts = [Path(values["init_from"]).name if values.get("init_from") else "" for values in found]
    assert starts == ["", *(f"mmig-{stage}-2" for stage in STAGES[:4]), "mmig-stage4-2"]
    seeds = [values["data"]["init_args"]["seed"] for values in found]
    assert seeds == [2, 22, 32, 42, 52, 52]
    assert seeds == [values["model"]["init_args"]["seed"] for values in found]
    assert [start_of(arm) for arm in arms] == starts


@pytest.mark.parametrize("baseline", ["instruct_pix2pix", "oracle_text"])
def test_the_baselines_have_the_samples_and_steps_of_stages_3_to_5(baseline: str) -> None:
    ours = [parsed(Arm(CHAIN / f"{row}.yaml", 1, ROOT / "runs").trainings([])[-1]) for row in STAGES[2:]]
    theirs = [parsed(command) for command in Arm(CHAIN / f"{baseline}.yaml", 1, ROOT / "runs").trainings([])]
    for one, other in zip(ours, theirs, strict=True):
        assert one["data"] == other["data"]
        assert one["trainer"]["max_steps"] == other["trainer"]["max_steps"]
        assert one["model"]["init_args"]["seed"] == other["model"]["init_args"]["seed"]
    starts = [Path(values["init_from"]).name if values.get("init_from") else "" for values in theirs]
    assert starts == ["", f"mmig-{baseline}-1-third", f"mmig-{baseline}-1-fourth"]


def test_the_baselines_differ_in_what_they_read_alone() -> None:
    one, other = (
        yaml.safe_load((CHAIN / f"{row}.yaml").read_text(encoding="utf-8"))["model"]["init_args"]
        for row in ("instruct_pix2pix", "oracle_text")
    )
    assert (one.pop("text"), other.pop("text")) == ("instruction", "response")
    assert one == other


def test_the_baselines_train_as_many_parameters_as_stage_5() -> None:
    counts = {}
    for row in ("stage5", "instruct_pix2pix"):
        module = build_module(settings_of_row(CHAIN / f"{row}.yaml"))
        counts[row] = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert counts == {"stage5": 9_959_492, "instruct_pix2pix": 9_972_772}
    assert abs(counts["instruct_pix2pix"] / counts["stage5"] - 1) < 0.05


def test_the_blind_language_model_differs_from_stage_2_in_its_eyes_alone() -> None:
    seeing, blind = (
        parsed(Arm(CHAIN / f"{row}.yaml", 1, ROOT / "runs").trainings([])[-1]) for row in ("stage2", "blind")
    )
    settings = [values["model"]["init_args"] for values in (seeing, blind)]
    assert [found["objective"].pop("text_only") for found in settings] == [0.1, 1.0]
    assert [found["sampling"].pop("sees") for found in settings] == [True, False]
    assert all(seeing[name] == blind[name] for name in ("model", "data", "init_from", "ema"))
    assert seeing["trainer"]["max_steps"] == blind["trainer"]["max_steps"]


def test_each_of_the_eight_terms_is_left_out_once_and_nothing_else() -> None:
    whole = yaml.safe_load((CHAIN / "stage5.yaml").read_text(encoding="utf-8"))
    assert set(whole["model"]["init_args"]["loss_weights"]) == set(TERMS)
    for left_out in (*((term,) for term in TERMS), ("as", "ar")):
        own = yaml.safe_load((CHAIN / f"no_{'_'.join(left_out)}.yaml").read_text(encoding="utf-8"))
        weights = own["model"]["init_args"].pop("loss_weights")
        assert own["model"]["init_args"].items() <= whole["model"]["init_args"].items()
        changed = {
            term for term, weight in whole["model"]["init_args"]["loss_weights"].items() if weights[term] != weight
        }
        assert changed == set(left_out) and all(weights[term] == 0 for term in changed)


def test_rows_wait_for_those_that_they_start_from() -> None:
    names = ("no_as", "stage5", "stage4", "stage1", "instruct_pix2pix")
    protocol = read_protocol(CHAIN / "protocol.yaml")
    jobs = [(Arm(CHAIN / f"{name}.yaml", seed, ROOT), protocol, {}) for seed in (0, 1) for name in names]
    found = [sorted({job[0].row.stem for job in wave}) for wave in waves(jobs)]
    assert found == [["instruct_pix2pix", "stage1", "stage4"], ["no_as", "stage5"]]
    assert sum(map(len, waves(jobs))) == len(jobs)


def test_all_arms_are_scored_in_one_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever "auto" would stand for while each of them starts."""
    asked: list[str] = []
    carry_out = "experiments.comparison.carry_out"
    monkeypatch.setattr(carry_out, lambda arms, protocols, options: asked.append(options.precision) or set())
    words = [str(CONNECTORS), "--rows", "response_mlp", "--seeds", "0", "--runs", str(tmp_path)]
    for given in ([], ["--precision", "bf16-mixed"]):
        main([*words, *given])
    assert asked == [chosen_precision("auto"), "bf16-mixed"]
    with pytest.raises(SystemExit):
        main([*words, "--precision", "bf16"])


def test_claims_name_what_the_comparisons_write() -> None:
    written = {}
    for folder in (CHAIN, CONNECTORS):
        for row in rows(folder):
            arm = Arm(folder / f"{row}.yaml", 0, Path("runs"))
            for part in read_protocol(arm.protocol).parts:
                written |= {str(place): (str(part.data), part) for place in arm.folders(part).values()}
    claims = [claim for claim in read_claims(ROOT / "docs/claims.yaml") if claim.name.startswith(("C1 ", "C2 ", "C3 "))]
    assert len(claims) == 8 + 12 + 6
    for claim in claims:
        for arm in (claim.first, claim.second):
            data, part = written[arm.format(seed=0)]
            assert data == claim.data, claim.name
            assert claim.measure in {name.rpartition(".")[2] for name in part.scoring.metrics} | {"concept_overlap"}


# All of it, small -------------------------------------------------------------------------------------------------


def shrunk(folder: Path, out: Path) -> Path:
    """A comparison in a folder, its trainings of one step, its data of few samples."""

    def here(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: here(one) for name, one in value.items()}
        if isinstance(value, list):
            return [here(one) for one in value]
        if isinstance(value, str) and value.startswith("configs/data/"):
            return str(copy(ROOT / value))
        return str(ROOT / value) if isinstance(value, str) and value.startswith("assets/") else value

    def copy(file: Path) -> Path:
        target = out / file.relative_to(ROOT)
        values = here(yaml.safe_load(file.read_text(encoding="utf-8")))
        if "trainer" in values:
            values["trainer"] |= {"max_steps": 1, "val_check_interval": 1}
        if "data" in values:
            small = {"train_count": 8, "val_count": 4, "test_count": 4, "global_batch_size": 2}
            values["data"]["init_args"] |= {"root": str(out / "world"), **small}
        sampling = values.get("model", {}).get("init_args", {}).get("sampling", {})
        sampling.update({"num_steps": 1} if sampling else {})
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return target

    for file in folder.rglob("*.yaml"):
        copy(file)
    return out / folder.relative_to(ROOT)


def scored(runs: Path, *places: str) -> list[dict[str, Any]]:
    return [json.loads((runs / place / "metrics.json").read_text(encoding="utf-8"))["metrics"] for place in places]


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that the comparison starts begin in a moment, with a cache of their own."""
    monkeypatch.setattr("sys.executable", python())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.timeout(3600)  # two dozen programs, one after another
@pytest.mark.usefixtures("warm")
def test_the_chain_runs_from_the_tiny_backbones_to_what_its_claims_compare(tmp_path: Path) -> None:
    runs, small = tmp_path / "runs", str(shrunk(CHAIN, tmp_path))
    common = ["--seeds", "1", "--limit", "2", "--processes", "1", "--runs", str(runs)]
    main([small, *common, "--rows", *STAGES, "instruct_pix2pix", "oracle_text", "--parts", "all"])
    main([small, *common, "--rows", "stage2", "blind", "--parts", "visual"])
    main([small, *common, "--rows", "stage5", "--parts", "unseen", "layered"])
    main([small, *common, "--rows", "stage5", "no_as_ar", "--parts", "concepts"])
    generated = [f"mmig-{stage}-1/all/response=generated" for stage in STAGES]
    visual = [f"mmig-{row}-1/visual/response=generated" for row in ("stage2", "blind")]
    layered = [f"mmig-stage5-1/layered/response=given,inner_steps={steps}" for steps in (0, 100)]
    for found in scored(
        runs,
        *generated,
        *("mmig-instruct_pix2pix-1/all", "mmig-oracle_text-1/all"),
        *visual,
        "mmig-stage5-1/unseen/response=generated,sees=False",
        *layered,
    ):
        assert found["joint"]["n"] == 2
    point = "response=given,measure_overlap=True,attention_guidance="
    for found in scored(
        runs, *(f"mmig-{row}-1/concepts/{point}{g}" for row in ("stage5", "no_as_ar") for g in (0.0, 20.0))
    ):
        assert found["concept_overlap"]["n"] == 2 and 0 < found["concept_overlap"]["value"] < 0.5


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("warm")
def test_connectors_of_every_kind_are_trained_and_scored(tmp_path: Path) -> None:
    runs, small = tmp_path / "runs", str(shrunk(CONNECTORS, tmp_path))
    common = ["--seeds", "1", "--limit", "2", "--processes", "1", "--runs", str(runs)]
    chosen = ["instruction_none", "instruction_mmsm", "response_mlp", "nothing_queries", "frozen_refiner"]
    main([small, *common, "--rows", *chosen, "--parts", "visual"])
    main([small, *common, "--rows", "instruction_mmsm", "--parts", "without"])
    places = [*(f"connectors-{row}-1/visual" for row in chosen), "connectors-instruction_mmsm-1/without/use_mmsm=False"]
    assert all(found["joint"]["n"] == 2 for found in scored(runs, *places))
