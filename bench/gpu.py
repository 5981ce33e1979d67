"""What a GPU makes of training at the published sizes: images/s, peak memory and model FLOP utilisation (MFU).

Measured one after the other, each in a process of its own, with random weights built on the GPU and random samples
(nothing is downloaded), in bfloat16: a bare Stable Diffusion 1.5 training step (compiled, channels last), each stage
of MMIG, the step of diffusers' public InstructPix2Pix script and ours of the same method (compiled). A process that
fails or takes too long gives one line that says why, and the next one starts.

    python bench/gpu.py [--jobs bare stage3 stage5] [--batch 4] [--resolution 512] [--steps 10]
    python bench/gpu.py --config configs/instruct_pix2pix/published.yaml [--config FILE ...] [arguments of train.py]

The second measures any training configuration, merged as train.py merges it, in place of these jobs (or beside those
that --jobs names): its module in mixed precision, all its optimisers and the EMA, as Lightning takes the steps, on one
batch of --batch samples at the resolution of its data.

MFU is the floating-point operations of all forward and backward passes of a step, without what gradient checkpointing
computes again, over time and the GPU's dense bfloat16 peak (`bench/tools/devices.py`, or --peak in TFLOP/s). They are
counted on the meta device for the lengths of text and the rows of BLIP-2 that the timed steps really had. The
tokenizers are those of assets/tiny, whose ids all fit the published embeddings; responses and captions are as long as
is read of them, instructions have 400 characters. Stages run as train.py runs them, and once more with gradient
checkpointing where memory does not suffice; --regions also compiles blocks of their UNet.

On a machine without a GPU one line says so. `--device cpu --sizes small --backend eager` tries the script itself.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.stages.configured import read_configs
from bench.stages.sizes import PUBLISHED, SMALL
from bench.tools.devices import GIB, TERA, peak_of
from bench.tools.gpu_steps import JOBS, ConfiguredJob, Job, Setting
from bench.tools.process import quiet_and_single
from mmig.base.commands import OptionParser, one_line_errors

MEMORY_GB, MFU, TO_BARE, TO_RECIPE = 80, 0.30, 0.90, 1.3
WARM_UP, RESOLUTION = 3, 512
CONFIG = "config"
"""The job that a configuration describes."""
BUDGET = 570
"""Seconds for all jobs together."""


@dataclass(frozen=True)
class Result:
    """What a job measured.

    Attributes:
        seconds: of a step. images: a second. rate: operations a second. peak: bytes that tensors took at most.
        device: its name. note: what of the job was different from usual. failure: one line, where it failed.
        resolution: pixels.
    """

    seconds: float = 0.0
    images: float = 0.0
    rate: float | None = None
    peak: int | None = None
    device: str = ""
    note: str = ""
    failure: str | None = None
    resolution: int = RESOLUTION


def measure(
    make: Callable[[Setting], Job | ConfiguredJob], setting: Setting, steps: int, warm_up: int = WARM_UP
) -> Result:
    """Run a job in this process: some steps to warm up and compile, then those that are timed."""
    device = setting.device
    torch.set_float32_matmul_precision("high")
    job = make(setting)
    wall, peak = job.run(device, steps, warm_up)
    operations = job.operations(steps)
    on_gpu = device.type == "cuda"
    return Result(
        wall / steps,
        steps * setting.batch / wall,
        None if operations is None else operations / wall,
        peak,
        torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "with gradient checkpointing" if setting.checkpointing else "",
        resolution=setting.sizes.resolution,
    )


def measure_apart(name: str, options: argparse.Namespace, seconds: float, *more: str) -> Result:
    """Run a job in a process of its own, at most so long."""
    if seconds <= 0:
        return Result(failure=f"no time left of {BUDGET} s; name fewer --jobs")
    command = [sys.executable, __file__, "--job", name, *more]
    for option in ("batch", "resolution", "steps", "device", "sizes", "backend"):
        value = getattr(options, option)
        command += [] if value is None else [f"--{option}", str(value)]
    command += [f"--{flag}" for flag in ("regions", "checkpointing") if getattr(options, flag)]
    if name == CONFIG:
        command += [word for file in options.config for word in ("--config", file)] + options.more
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Result(failure=f"stopped after {seconds:.0f} s")
    if done.returncode != 0:
        said = [text for text in done.stderr.splitlines() if text.strip()] or [f"exit code {done.returncode}"]
        return Result(failure=said[-1][:300])
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def measure_all(options: argparse.Namespace) -> dict[str, Result]:
    """Each job, until the time is over; a stage that runs out of memory once more with gradient checkpointing."""
    end, results = time.monotonic() + BUDGET, {}
    for name in dict.fromkeys(options.jobs):
        result = measure_apart(name, options, end - time.monotonic())
        if result.failure and "out of memory" in result.failure and name.startswith(("stage", CONFIG)):
            result = measure_apart(name, options, end - time.monotonic(), "--checkpointing")
        results[name] = result
        print("\n".join(lines_of(name, result, options)), flush=True)
    return results


def lines_of(name: str, result: Result, options: argparse.Namespace) -> list[str]:
    """What is printed of a job itself."""
    if name == CONFIG:
        name = f"{CONFIG}:{Path(options.config[0]).stem}"
    if result.failure is not None:
        return [f"gpu/{name} not measured: {result.failure}"]
    peak = options.peak * TERA if options.peak else peak_of(result.device)
    memory = "memory not counted" if result.peak is None else f"peak {result.peak / GIB:.1f} GiB"
    about = f"{result.images:.2f} images/s, {1e3 * result.seconds:.1f} ms a step of {options.batch}, {memory}"
    about = ", ".join(filter(None, (about, f"{result.resolution} px", result.note, result.device)))
    lines = []
    if result.rate is not None and peak is not None:
        goal = f"goal > {MFU}" if name == "stage3" else "no goal of its own"
        rate = f"{result.rate / TERA:.3g} of {peak / TERA:.3g} TFLOP/s"
        lines.append(f"gpu/{name}_mfu ratio {result.rate / peak:.3f} ({goal}: {rate}; {about})")
    else:
        why = "peak of this device unknown, give --peak" if result.rate is not None else "operations not counted"
        lines.append(f"gpu/{name} images {result.images:.2f} a second (no MFU: {why}; {about})")
    if name == "stage5" and result.peak is not None:
        share = result.peak / (MEMORY_GB * 1e9)
        lines.append(f"gpu/stage5_memory ratio {share:.3f} (goal <= 1 at batch 4: of {MEMORY_GB} GB; {about})")
    return lines


def compared(results: dict[str, Result]) -> list[str]:
    """Lines of the ratios between jobs of which both were measured."""
    done = {name: result for name, result in results.items() if result.failure is None}
    lines = []
    if "bare" in done and "stage3" in done:
        ratio = done["stage3"].rate / done["bare"].rate
        lines.append(
            f"gpu/stage3_to_bare ratio {ratio:.3f} (goal >= {TO_BARE}: of the bare step's operations a second)"
        )
    if "recipe" in done and "instruct_pix2pix" in done:
        ratio = done["instruct_pix2pix"].images / done["recipe"].images
        lines.append(
            f"gpu/instruct_pix2pix_to_recipe ratio {ratio:.3f} (goal >= {TO_RECIPE}: images/s over diffusers')"
        )
    return lines


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options of the command line; `more` are those of train.py."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, help="default: all, or none beside a --config")
    parser.add_argument("--stages", type=int, nargs="+", choices=range(1, 6), help="short for --jobs stageN ...")
    parser.add_argument("--config", action="append", metavar="FILE", help="measure this training configuration")
    parser.add_argument("--batch", type=int, default=4, help="samples a step")
    parser.add_argument("--resolution", type=int, help=f"pixels (default: {RESOLUTION}; of a configuration its data's)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--peak", type=float, help="TFLOP/s of a device that is not in the table")
    parser.add_argument("--regions", action="store_true", help="compile blocks of the stages' UNet")
    parser.add_argument("--checkpointing", action="store_true", help="of stages and configurations, from the start")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", choices=("published", "small"), default="published")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--job", choices=[*JOBS, CONFIG], help=argparse.SUPPRESS)
    options, options.more = parser.parse_known_args(arguments)
    if options.more and not options.config:
        parser.error(f"{' '.join(options.more)}: options of train.py need a --config")
    if options.stages:
        options.jobs = ["bare", *(f"stage{number}" for number in options.stages)]
    options.jobs = [*(options.jobs or ([] if options.config else JOBS)), *([CONFIG] if options.config else [])]
    return options


def measure_here(options: argparse.Namespace) -> Result:
    """The job that this process is for."""
    quiet_and_single()
    torch.manual_seed(0)
    make, resolution = JOBS.get(options.job), options.resolution
    if options.job == CONFIG:
        config = read_configs(options.config, options.more)
        make, resolution = partial(ConfiguredJob, config=config), resolution or config.resolution
    sizes = replace({"published": PUBLISHED, "small": SMALL}[options.sizes], resolution=resolution or RESOLUTION)
    setting = Setting(
        sizes,
        options.batch,
        torch.device(options.device),
        backend=options.backend,
        checkpointing=options.checkpointing,
        regions=options.regions,
    )
    return measure(make, setting, options.steps)


def main(arguments: list[str] | None = None) -> None:
    """Measure each job in a process of its own, or the one that this process is for."""
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        what = Path(options.config[0]).stem if options.config else "all stages"
        print(f"gpu not measured: needs a CUDA device, found none (images/s, memory and MFU of {what})")
    elif options.job is None:
        if options.config:
            read_configs(options.config, options.more)  # what is wrong there ends everything in one line
        for line in compared(measure_all(options)):
            print(line)
    else:
        with one_line_errors():
            print(json.dumps(asdict(measure_here(options))))


if __name__ == "__main__":
    main()
