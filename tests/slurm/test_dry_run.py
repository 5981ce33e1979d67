"""DRY_RUN=1 shows what a script would do, without SLURM and without a GPU; what it shows is accepted by train.py."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.slurm.cluster import ROOT
from tests.test_configs import ParsedError, ParseOnly

SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
STAGES = [f"stage{number}.sh" for number in range(1, 6)]
PUBLISHED, DATA = "configs/instruct_pix2pix/published.yaml", "configs/data/shards.yaml"
GIVEN = {"train.sh": ("ip2p", "--config", PUBLISHED, f"--config={DATA}")}
"""What a script cannot do without."""


def clean_environment() -> dict[str, str]:
    """The environment without anything of a job."""
    of_jobs = ("SLURM", "SBATCH", "MMIG", "MASTER_")  # Lightning leaves the last in the environment
    return {name: value for name, value in os.environ.items() if not name.startswith(of_jobs)}


def dry_run(script: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """Output of a script in a dry run, in an environment without anything of a job."""
    result = subprocess.run(
        ["bash", str(ROOT / "slurm" / script), *arguments],
        cwd=cwd,
        env={**clean_environment(), "DRY_RUN": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def train_arguments(output: str) -> list[str]:
    """Arguments of train.py in the command that a dry run shows."""
    words = shlex.split(re.search(r"^command +(.*)$", output, re.MULTILINE)[1])
    assert words[:4] == ["srun", "--kill-on-bad-exit=1", "--label", "--export=ALL"]
    return words[words.index("train.py") + 1 :]


def test_overrides_are_words_as_a_shell_takes_them() -> None:
    overrides = """--data.init_args.train '/data/two words' --model.x [1,2] --y "it's" """
    words = train_arguments(dry_run("stage1.sh", MMIG_OVERRIDES=overrides))
    given = ["--data.init_args.train", "/data/two words", "--model.x", "[1,2]", "--y", "it's"]
    assert " ".join(given) in " ".join(words)
    assert set(given) <= set(words)


def test_overrides_that_nobody_can_read_start_nothing() -> None:
    with pytest.raises(AssertionError, match="quote"):
        dry_run("stage1.sh", MMIG_OVERRIDES="--x 'open")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", [*STAGES, "sweep.sh", "train.sh"])
def test_the_training_it_would_start_is_accepted(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = train_arguments(dry_run(script, *GIVEN.get(script, ()), "--trainer.max_steps", "7"))
    monkeypatch.chdir(ROOT)
    with pytest.raises(ParsedError) as caught:
        ParseOnly(arguments)
    merged = caught.value.args[0]
    assert merged["trainer"]["max_steps"] == 7
    assert (merged["trainer"]["num_nodes"], merged["trainer"]["devices"]) == (1, "8")


def test_a_stage_starts_from_the_one_before() -> None:
    for number, script in enumerate(STAGES, 1):
        arguments = train_arguments(dry_run(script, MMIG_PREFIX="first-"))
        assert arguments[arguments.index("--name") + 1] == f"first-stage{number}"
        before = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--init_from"]
        assert before == ([] if number == 1 else [f"runs/first-stage{number - 1}"])


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS if path.name not in ("prelude.sh", "chain.sh")])
def test_a_job_asks_to_be_requeued_and_keeps_its_log(script: str) -> None:
    options = re.search(r"^resources +(.*)$", dry_run(script, *GIVEN.get(script, ())), re.MULTILINE)[1].split()
    assert {"--requeue", "--open-mode=append"} <= set(options)
    assert ("--signal=SIGUSR1@120" in options) == (script != "evaluate.sh")  # which has nothing to save


@pytest.mark.parametrize("scored", [("--config", "configs/editors/identity.yaml"), ("--images=results",)])
def test_what_is_no_run_is_evaluated_too(scored: tuple[str, ...]) -> None:
    words = shlex.split(dry_run("evaluate.sh", *scored, OUT="out").partition("command")[2])
    assert "--checkpoint" not in words
    assert words[words.index("--out") + 1] == "out"
    assert words[-len(scored) :] == [*scored]
    run = shlex.split(dry_run("evaluate.sh", CHECKPOINT="runs/x").partition("command")[2])
    assert run[run.index("--checkpoint") + 1] == "runs/x"
    with pytest.raises(AssertionError, match="OUT: expected the folder of the results, for no run is scored"):
        dry_run("evaluate.sh", *scored)


def test_a_protocol_brings_its_own_data() -> None:
    words = shlex.split(dry_run("evaluate.sh", "--protocol", "magicbrush", CHECKPOINT="runs/x").partition("command")[2])
    assert "--data" not in words
    assert words[-2:] == ["--protocol", "magicbrush"]


def test_a_container_stands_around_the_program() -> None:
    shown = dry_run("stage1.sh", MMIG_CONTAINER="mmig.sif", MMIG_PYTHON="python")
    words = shlex.split(shown.partition("command")[2])
    begin = words.index("apptainer")
    around = ["apptainer", "exec", "--nv", "--bind", str(ROOT), "--pwd", str(ROOT), "mmig.sif"]
    assert words[begin : begin + 11] == [*around, "python", "train.py", "fit"]


def test_variables_that_are_set_stay() -> None:
    shown = dry_run("stage1.sh", MASTER_ADDR="10.0.0.7", NCCL_DEBUG="INFO", SLURM_JOB_ID="31234")
    assert {"MASTER_ADDR=10.0.0.7", "NCCL_DEBUG=INFO", "MASTER_PORT=16234"} <= set(shown.split())


def test_tasks_get_the_processors_that_the_job_asks_for() -> None:
    asked = dry_run("stage1.sh", OMP_NUM_THREADS="")
    in_job = dry_run("stage1.sh", OMP_NUM_THREADS="", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="3")
    for shown, cpus in ((asked, 8), (in_job, 3)):
        assert f"OMP_NUM_THREADS={cpus}" in shown.split()
        assert f"--cpus-per-task={cpus}" in re.search(r"^command +(.*)$", shown, re.MULTILINE)[1].split()
    assert "OMP_NUM_THREADS=2" in dry_run("stage1.sh", OMP_NUM_THREADS="2").split()


def test_names_of_configurations_may_hold_spaces(tmp_path: Path) -> None:
    data, trainer = tmp_path / "my data.yaml", tmp_path / "my trainer.yaml"
    data.write_text((ROOT / DATA).read_text())
    trainer.write_text((ROOT / "configs/trainer/cpu.yaml").read_text())
    settings = {"MMIG_DATA": str(data), "MMIG_TRAINER": str(trainer), "MMIG_RUNS": str(tmp_path / "my runs")}
    for script in ("stage2.sh", "sweep.sh"):
        arguments = train_arguments(dry_run(script, **settings))
        configs = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--config"]
        assert configs[1:] == [str(data), str(trainer)]
        assert arguments[arguments.index("--runs") + 1] == settings["MMIG_RUNS"]
    given = train_arguments(dry_run("train.sh", "x", "--config", PUBLISHED, **settings))
    assert given[:5] == ["fit", "--config", str(trainer), "--config", PUBLISHED]
    several = "configs/trainer/ddp.yaml configs/trainer/wandb.yaml"
    assert "--config configs/trainer/wandb.yaml" in dry_run("stage1.sh", MMIG_TRAINER=several)


def test_it_may_be_called_from_anywhere(tmp_path: Path) -> None:
    assert "--config configs/mmig/stage2.yaml" in dry_run("stage2.sh", cwd=tmp_path)


def test_the_chain_submits_what_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "finished.json").touch()
    shown = dry_run("chain.sh", MMIG_RUNS=str(tmp_path))
    assert re.findall(r"^stage (\d)  (\w+)", shown, re.MULTILINE) == [
        *(("1", "finished"), ("2", "finished")),
        *((number, "submitted") for number in "345"),
    ]
    commands = [shlex.split(line) for line in shown.splitlines() if line.startswith("sbatch")]
    assert [command[-1] for command in commands] == [f"slurm/stage{number}.sh" for number in (3, 4, 5)]
    assert all("--kill-on-invalid-dep=yes" in command for command in commands)
    depends = [[word for word in command if word.startswith("--dependency")] for command in commands]
    assert depends == [[], ["--dependency=afterok:JOB3"], ["--dependency=afterok:JOB4"]]


def test_any_run_is_named_and_configured_by_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("-c", "configs/trainer/fsdp.yaml", "--model.init_args.seed", "3")
    shown = dry_run("train.sh", *GIVEN["train.sh"], *more, MMIG_RUNS="elsewhere", MMIG_PREFIX="b-")
    assert shown.startswith("run          elsewhere/b-ip2p (no checkpoint yet)\n")
    arguments = train_arguments(shown)
    assert arguments[:3] == ["fit", "--config", "configs/trainer/ddp.yaml"]
    assert [arguments[arguments.index(name) + 1] for name in ("--name", "--runs")] == ["b-ip2p", "elsewhere"]
    assert not {"--init_from", "--data.init_args.resolution"} & set(arguments)  # they are the stages'
    monkeypatch.chdir(ROOT)
    with pytest.raises(ParsedError) as caught:
        ParseOnly(arguments)
    merged = caught.value.args[0]
    assert merged["model"]["class_path"].endswith("InstructPix2PixModule") and merged["model"]["init_args"]["seed"] == 3
    assert merged["trainer"]["strategy"]["class_path"] == "mmig.training.fsdp.FSDP2Strategy"  # what is given wins
    assert merged["data"]["init_args"]["resolution"] == 64


DOCUMENTED = re.findall(r"`sbatch slurm/train\.sh ([^`\[]*--config [^`\[]*)`", (ROOT / "docs/cluster.md").read_text())


@pytest.mark.parametrize("command", DOCUMENTED)
def test_the_runs_that_the_page_names_are_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ParsedError) as caught:
        ParseOnly(train_arguments(dry_run("train.sh", *words)))
    named = yaml.safe_load((ROOT / words[2]).read_text(encoding="utf-8"))["model"]["class_path"]
    assert caught.value.args[0]["model"]["class_path"] == named and caught.value.args[0]["name"] == words[0]


def refusal(script: str, *arguments: str, **environment: str) -> str:
    """What a script says that ends with status 2; nothing on standard output, one line of error."""
    result = subprocess.run(
        ["bash", f"slurm/{script}", *arguments],
        cwd=ROOT,
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("environment", [{}, {"DRY_RUN": "1"}, {"SLURM_JOB_ID": "7"}], ids=["plain", "dry", "job"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no NAME of the run given; usage: sbatch slurm/train.sh NAME --config FILE"),
        (("--config", PUBLISHED), "no NAME of the run given; usage"),
        ((PUBLISHED, "--config", DATA), f"NAME: expected the name of a run, found the path {PUBLISHED}; usage"),
        (("ip2p", "--trainer.max_steps", "7"), "no --config FILE given; usage"),
        (("ip2p", "--config"), "--config: no FILE after it; usage"),
        (("ip2p", "--config", PUBLISHED, "--config=nowhere.yaml"), "nowhere.yaml: no such file"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(
    arguments: tuple[str, ...], message: str, environment: dict[str, str]
) -> None:
    assert refusal("train.sh", *arguments, **environment).startswith(f"error: {message}")


@pytest.mark.parametrize("script", ["stage1.sh", "train.sh"])
def test_outside_of_a_job_it_ends_in_one_line(script: str) -> None:
    expected = "error: not inside a SLURM job: submit it with sbatch, or look at it with DRY_RUN=1"
    assert refusal(script, *GIVEN.get(script, ())) == expected
