"""What does saving cost a training? A file of one process, and shards of two ranks (FSDP2), beside the training.

Stage 3 of MMIG as configs/demo has it (it trains a UNet of 2.6 M parameters, assets/tiny, 64 px) takes rounds of steps
without a save, with one that is written beside, and with one that is waited for, in turn. The cost of a save is what a
round with it takes longer than one without, standing still and slowed down together: medians over the rounds. The
share is that cost per 1,000 steps, the default interval. Processor time is printed beside, for a machine with other
work. Then the same copy and writing for 1 GB of tensors.

    python bench/checkpoint.py [--rounds 5] [--steps 6]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml

from bench.tools.save_rounds import KINDS
from bench.tools.set_up import NEVER, ROOT
from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.base.commands import OptionParser
from mmig.checkpoints.files import on_host, write_file

GOAL = 0.05
INTERVAL = 1000
"""Default of --checkpoint.every_n_steps."""
GIGABYTES = 1.0
FORMS = {"file": (1, "auto"), "shards": (2, "fsdp2")}
Times = dict[str, list[dict[str, float]]]


def write_data(folder: Path) -> None:
    """Shards of the small world."""
    samples = (make_sample(0, "train", index, photographs=False) for index in range(64))
    write_shards(samples, folder / "train", samples_per_shard=16)


def config_of(folder: Path, form: str, rounds: int, steps: int) -> dict[str, Any]:
    """Stage 3 of the demo on `write_data`, in rounds."""
    config = yaml.safe_load((ROOT / "configs/demo/stage3.yaml").read_text(encoding="utf-8"))
    num_ranks, strategy = FORMS[form]
    data = {"train": str(folder / "train"), "global_batch_size": 4, "num_workers": 0}
    config["data"] = {"class_path": "datamodules.shard_data.ShardData", "init_args": data}
    settings = {"steps": steps, "rounds": rounds, "out": str(folder / f"{form}.json")}
    config["trainer"] = {
        "accelerator": "cpu",
        "devices": num_ranks,
        "strategy": strategy,
        "max_steps": (rounds + 1) * len(KINDS) * steps,
        "enable_progress_bar": False,
        "callbacks": [{"class_path": "bench.tools.save_rounds.SaveRounds", "init_args": settings}],
    }
    config["checkpoint"] = {"every_n_steps": NEVER, "keep": 1}
    return config


def measure(folder: Path, form: str, rounds: int, steps: int) -> Times:
    """Times of all rounds, as `SaveRounds` has them."""
    (folder / f"{form}.yaml").write_text(yaml.safe_dump(config_of(folder, form, rounds, steps)), encoding="utf-8")
    options = [f"--config={folder / f'{form}.yaml'}", f"--name={form}", f"--runs={folder / 'runs'}"]
    command = [sys.executable, "train.py", "fit", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: the run failed: {done.stderr[-1000:]}")
    return json.loads((folder / f"{form}.json").read_text())


def cost(times: Times, kind: str, clock: str) -> float:
    """Seconds that a save costs: the median over the rounds of how much longer one with it took."""
    return median(own[clock] - bare[clock] for own, bare in zip(times[kind], times["none"], strict=True))


def report(form: str, times: Times, steps: int, size: int) -> str:
    """One line on a form."""
    shares, step = {}, median(bare["wall"] for bare in times["none"]) / steps
    for clock in ("wall", "processor"):
        interval = INTERVAL * median(bare[clock] for bare in times["none"]) / steps
        extra = max(0.0, cost(times, "beside", clock))
        shares[clock] = extra / (interval + extra)
    stalls = {kind: median(one["stall"] for one in times[kind]) for kind in ("beside", "waited")}
    num_ranks, strategy = FORMS[form]
    return (
        f"checkpoint_cost ratio {shares['wall']:.5f} (goal <= {GOAL}; {form}, {num_ranks} x {strategy}, "
        f"{size / 1e6:.0f} MB, every {INTERVAL} steps of {step:.2f} s; by processor time {shares['processor']:.5f}; "
        f"the loop stands still for {stalls['beside']:.3f} s a save, {stalls['waited']:.3f} s if it waits for disk; "
        f"load {os.getloadavg()[0]:.1f})"
    )


def large(folder: Path, gigabytes: float = GIGABYTES) -> str:
    """One line on the copy and the writing of a large state."""
    values = {str(number): torch.randn(1 << 22) for number in range(round(gigabytes * 1e9 / (1 << 24)))}
    start = time.perf_counter()
    copy = on_host(values)
    copied = time.perf_counter()
    write_file(copy, folder / "step-00000001.ckpt")
    written = time.perf_counter()
    size = (folder / "step-00000001.ckpt").stat().st_size / 1e9
    return f"state of {size:.2f} GB: copied in {copied - start:.2f} s, written and synced in {written - copied:.2f} s"


def size_of(checkpoint: Path) -> int:
    """Bytes of a checkpoint of either form."""
    files = checkpoint.iterdir() if checkpoint.is_dir() else [checkpoint]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Measure both forms, then a large state."""
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        for form in FORMS:
            times = measure(folder, form, options.rounds, options.steps)
            size = size_of(next((folder / "runs" / form / "checkpoints").glob("step-*.ckpt")))
            print(report(form, times, options.steps, size), flush=True)
        print(large(folder))


if __name__ == "__main__":
    main()
