"""From evaluate.py's options to single evaluations."""

from pathlib import Path

import pytest

from mmig.run.evaluate_parser import build_parser
from mmig.run.jobs import Plan, asked_grid, planned, points
from mmig.run.scoring import choose_settings


def plan(*words: str) -> Plan:
    return planned(build_parser().parse_args([*words, "--out", "out"]))


def test_one_system_on_one_data_set_is_one_job_in_the_folder_itself() -> None:
    (job,) = plan("--config", "editors/a.yaml", "--data", "data.yaml").jobs
    assert (job.out, job.system, job.part, job.point) == (Path("out"), "a", None, {})
    given = job.arguments
    assert (given.config, given.checkpoint, given.images) == ("editors/a.yaml", None, None)
    assert (given.data, given.split, given.seeds) == ("data.yaml", "test", 1)


def test_systems_and_points_have_folders_of_their_own() -> None:
    found = plan("--checkpoint", "runs/x", "runs/y", "--data", "d.yaml", "--grid", "scale=1,2", "--sampling", "steps=3")
    assert [job.out.as_posix() for job in found.jobs] == [
        f"out/scale={scale}/{name}" for scale in (1, 2) for name in "xy"
    ]
    assert found.jobs[3].arguments.sampling == ["steps=3", "scale=2"]
    assert found.jobs[3].arguments.checkpoint == "runs/y"
    assert {folder.as_posix(): len(jobs) for folder, jobs in found.groups().items()} == {
        "out/scale=1": 2,
        "out/scale=2": 2,
    }


def test_systems_are_called_by_as_much_of_their_paths_as_tells_them_apart() -> None:
    found = plan("--checkpoint", "runs/x/last", "runs/y/last", "--config", "c/z.yaml", "--data", "d.yaml")
    assert [job.system for job in found.jobs] == ["x-last", "y-last", "c-z"]


def test_a_protocol_says_data_split_seeds_and_scoring() -> None:
    found = plan("--protocol", "mgie", "--checkpoint", "runs/x")
    assert [job.out.as_posix() for job in found.jobs] == ["out/evr", "out/gier", "out/ma5k", "out/magicbrush"]
    job = found.jobs[2]
    assert (job.arguments.data, job.arguments.seeds) == ("configs/data/ma5k.yaml", 5)
    assert job.part is not None
    settings = choose_settings(job.arguments, job.part.scoring)
    assert (settings.metrics, settings.lpips) == (["l1_target", "ssim_target", "lpips_target"], "alex")


def test_some_parts_of_a_protocol_may_be_chosen() -> None:
    found = plan("--protocol", "mgie", "--parts", "gier", "evr", "--checkpoint", "runs/x")
    assert [job.out.as_posix() for job in found.jobs] == ["out/evr", "out/gier"]
    (job,) = plan("--protocol", "mgie", "--parts", "gier", "--data", "mine.yaml", "--checkpoint", "runs/x").jobs
    assert (job.out, job.arguments.data) == (Path("out"), "mine.yaml")


def test_options_change_what_a_protocol_says() -> None:
    words = (
        "--protocol",
        "mgie",
        "--checkpoint",
        "runs/x",
        "--seeds",
        "1",
        "--data",
        "evr=mine.yaml",
        "--clip",
        "here",
    )
    job = plan(*words).jobs[0]
    assert (job.arguments.data, job.arguments.seeds) == ("mine.yaml", 1)
    assert job.part is not None
    settings = choose_settings(job.arguments, job.part.scoring)
    assert (settings.clip, settings.clip_weights, job.part.scoring.clip_weights) == ("here", None, "openai")


def test_a_grid_of_two_settings_has_every_combination() -> None:
    grid = asked_grid(["a=1,2", "b=x,y"])
    assert [tuple(point.values()) for point in points(grid)] == [("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "d.yaml"], "nothing to score: expected --checkpoint, --config or --images"),
        (["--checkpoint", "x"], "--data: expected one YAML with a `data` section, or --protocol"),
        (["--checkpoint", "x", "--data", "a.yaml", "b.yaml"], "--data: expected one YAML"),
        (["--checkpoint", "x", "./x", "--data", "a.yaml"], "./x: given twice"),
        (["--checkpoint", "x", "--data", "a.yaml", "--grid", "scale"], "--grid scale: expected NAME=VALUE,VALUE"),
        (["--checkpoint", "x", "--data", "a.yaml", "--grid", "scale=1,1"], "a name or value is there twice"),
        (["--checkpoint", "x", "--data", "a.yaml", "--grid", "text=a/b,a-b"], "would lie in one folder, text=a-b"),
        (
            ["--checkpoint", "x", "--data", "a.yaml", "--grid", "scale=1,2", "--sampling", "scale=3"],
            "--sampling scale=3: the grid has scale=1,2",
        ),
        (
            ["--checkpoint", "x", "--protocol", "instruct_pix2pix", "--sampling", "image_guidance_scale=1.5"],
            "the grid has image_guidance_scale=1.0,1.2",
        ),
        (["--checkpoint", "p/a/b-c", "p/a-b/c", "q/z/c", "--data", "a.yaml"], "would both be called 'a-b-c'"),
        (["--checkpoint", "x", "--protocol", "coco"], "--protocol coco: expected a YAML, or one of emu_edit"),
        (["--checkpoint", "x", "--protocol", "mgie", "--data", "a.yaml"], "expected PART=FILE, PART being one of evr"),
        (["--checkpoint", "x", "--protocol", "mgie", "--data", "ev=a.yaml"], "expected PART=FILE"),
        (["--checkpoint", "x", "--protocol", "mgie", "--parts", "ev"], "--parts ev: the protocol mgie has evr, gier"),
        (["--checkpoint", "x", "--data", "a.yaml", "--parts", "ev"], "--parts: expected a --protocol"),
    ],
)
def test_what_does_not_fit_together_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        plan(*words)
    assert message in str(refused.value)
