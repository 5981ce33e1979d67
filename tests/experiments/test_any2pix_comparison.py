"""The comparison of InstructAny2Pix as it is committed: its commands, and all of it with a few steps and samples."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.tinyworld.contents import ContentWorld
from datamodules.tinyworld.write import write_split
from experiments.arms import Arm
from experiments.comparison import main, rounds
from experiments.tiny_backbones.sdxl import main as write_sdxl
from experiments.trade_off import main as draw
from mmig.evaluation.claims import read_claims
from mmig.evaluation.finished import read_finished
from mmig.evaluation.protocol import read_protocol
from tests import warm
from tests.test_configs import ParsedError, ParseOnly

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs/results/instruct_any2pix"
GIVEN = {
    "tiny-imagebind": ["configs/tiny/imagebind.yaml"],
    "any2pix-decoder": ["configs/instruct_any2pix/tinyworld_decoder.yaml", "configs/data/multimodal_mixture.yaml"],
}
"""Runs that all seeds share, and their configurations."""
WORLDS = {
    "sounds": ("train", "val"),
    "multimodal": ("train", "val", "test"),
    "multimodal_said": ("train", "val", "test"),
    "multimodal_several": ("train", "test"),
    "multimodal_in_words": ("test",),
    **{f"multimodal_{name}": ("test",) for name in ("shown", "heard", "long")},
}
PHASES = ["prior", "llm1", "llm2"]


def test_each_phase_is_what_train_accepts_and_stands_on_those_before() -> None:
    commands = Arm(FOLDER / "any2pix.yaml", 1, ROOT / "runs").trainings([])
    names = [command[command.index("--name") + 1] for command in commands]
    assert names == [*(f"instruct_any2pix-any2pix-1-{phase}" for phase in PHASES), "instruct_any2pix-any2pix-1"]
    for number, command in enumerate(commands):
        with pytest.raises(ParsedError) as caught:
            ParseOnly(command[1:])
        merged = caught.value.args[0]
        used = {Path(value).name for value in merged["model"]["init_args"].values() if "runs/" in str(value)}
        own = {f"instruct_any2pix-any2pix-1-{phase}" for phase in PHASES[: number > 0]}
        assert used == {*own, *list(GIVEN)[: 1 + (number == len(PHASES))]}
        assert merged["model"]["init_args"]["seed"] == merged["data"]["init_args"]["seed"] == 1
    starts = [command[command.index("--init_from") + 1] for command in commands if "--init_from" in command]
    assert [Path(start).name.rpartition("-")[2] for start in starts] == ["llm1", "llm2"]


def test_both_rows_are_scored_alike_where_both_are() -> None:
    ours, words = (read_protocol(FOLDER / name) for name in ("protocol.yaml", "protocol/instruct_pix2pix.yaml"))
    parts = {part.name: part for part in ours.parts}
    shared = [part for part in rounds(words)[1].parts if part.name in parts]
    assert [part.name for part in shared] == ["said", "long", "several", "several_in_turns"]
    assert all(part == parts[part.name] for part in shared)
    assert {part.name for part in rounds(ours)[0].parts} == {"val"}


def test_claims_name_what_the_comparison_writes() -> None:
    arm = Arm(FOLDER / "any2pix.yaml", 0, Path("runs"))
    parts = read_protocol(arm.protocol).parts
    written = {str(folder): str(part.data) for part in parts for folder in arm.folders(part).values()}
    claims = [claim for claim in read_claims(ROOT / "docs/claims.yaml") if claim.name.startswith(("C7", "C9"))]
    assert len(claims) == 8
    for claim in claims:
        assert written[claim.first.format(seed=0)] == claim.data
        assert written[claim.second.format(seed=0)] == (claim.second_data or claim.data)


def shrunk(out: Path) -> Path:
    """The comparison and all that it names in a folder, its trainings of one step, its data of few samples."""
    for world, splits in WORLDS.items():
        for split in splits:
            write_split(out / "data" / world / split, split, 8 if split == "train" else 2, ContentWorld(world))

    def here(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: here(one) for name, one in value.items()}
        if isinstance(value, list):
            return [here(one) for one in value]
        if isinstance(value, str) and value.startswith(("data/", "runs/", "exports/")):
            return str(out / value)
        return str(copy(ROOT / value)) if isinstance(value, str) and value.startswith("configs/") else value

    def copy(file: Path) -> Path:
        target = out / file.relative_to(ROOT)
        values = here(yaml.safe_load(file.read_text(encoding="utf-8")))
        if "trainer" in values:
            values["trainer"] |= {"max_steps": 1, "val_check_interval": 1, "limit_val_batches": 1}
        if "data" in values:
            values["data"]["init_args"]["global_batch_size"] = 4
        for phase in values.get("any2pix", {}).values():
            phase.setdefault("options", {}).update({"trainer.max_steps": 1, "trainer.val_check_interval": 1})
        sampling = values.get("model", {}).get("init_args", {}).get("sampling", {})
        sampling.update({"num_steps": 2} if sampling else {})
        if "parts" in values:
            values["scoring"]["clip"] = str(ROOT / values["scoring"]["clip"])
            (name, choices), *others = values["parts"]["val"]["grid"].items()
            values["parts"]["val"]["grid"] = {name: choices[:2], **{other: more[:1] for other, more in others}}
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return target

    for file in (*(ROOT / name for names in GIVEN.values() for name in names), *FOLDER.rglob("*.yaml")):
        copy(file)
    return out / FOLDER.relative_to(ROOT)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # twenty programs, one after another
def test_all_of_it_runs_from_the_tiny_backbones_to_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, runs = shrunk(tmp_path), tmp_path / "runs"
    for name, configs in GIVEN.items():
        named = [word for config in configs for word in ("--config", str(tmp_path / config))]
        arguments = ["train.py", "fit", *named, "--name", name, "--runs", str(runs)]
        subprocess.run([warm.python(), *arguments], cwd=ROOT, check=True)
    data, out = tmp_path / "configs/data/multimodal_said.yaml", tmp_path / "exports/sdxl"
    write_sdxl(["--imagebind", str(runs / "tiny-imagebind"), "--data", str(data), "--out", str(out)])
    main([str(folder), "--seeds", "1", "--limit", "2", "--processes", "1", "--runs", str(runs)])
    assert "chosen on val" in capsys.readouterr().out
    ours, words = (runs / f"instruct_any2pix-{row}-1" for row in ("any2pix", "instruct_pix2pix"))
    modalities = read_finished([ours / part for part in ("said", "shown", "heard")])
    (alpha,) = {each.report["sampling"]["alpha"] for each in modalities}
    on_and_off = read_finished([ours / "prior" / f"prior_weight={weight}" for weight in (0.0, 1.0)])
    assert [each.report["sampling"]["prior_weight"] for each in on_and_off] == [0.0, 1.0]
    assert all(each.report["sampling"]["alpha"] == alpha for each in on_and_off)
    at_once, in_turns = read_finished([ours / "several", ours / "several_in_turns"])
    assert at_once.keys == in_turns.keys and len(at_once.keys) == 2
    for row in (words, runs / "instruct_any2pix-instruct_pix2pix_sdxl-1"):
        short, long = read_finished([row / "said", row / "long"])
        assert short.keys == long.keys
    assert "InstructAny2Pix (MM-Instruct-Edit)" in (ours / "said" / "overview.md").read_text(encoding="utf-8")
    draw([str(ours), "--out", str(tmp_path / "figure")])
    assert (tmp_path / "figure" / "trade_off.png").is_file()
