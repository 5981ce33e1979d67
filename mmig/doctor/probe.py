"""What torch says of this machine, as lines of JSON; a program that `doctor` starts, for importing torch may end it.

Before each question a line {"asked": NAME} is written, after it {NAME: ANSWER}: what ended the process, or took for
ever, is the last one that was asked. A question that raises has the answer {"error": "KIND: first line"}.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TextIO

SIDE = 256
"""Of the matrices that are multiplied on a GPU to see whether it computes."""


def torch_facts() -> dict[str, Any]:
    """Version, and what it was built for."""
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}


def torchvision_facts() -> dict[str, Any]:
    """Version; an operator of its own is called, which another build than torch's does not have."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return {"version": torchvision.__version__}


def cpu_facts() -> dict[str, Any]:
    """Vector units that torch uses, matrix units, and threads."""
    import torch

    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "avx512_bf16": bool(torch.cpu._is_avx512_bf16_supported()),
        "threads": torch.get_num_threads(),
    }


def precision_facts() -> dict[str, Any]:
    """What `trainer.precision: auto` stands for."""
    from mmig.run.precision import AUTO, chosen_precision

    return {"auto": chosen_precision(AUTO), "cpu": chosen_precision("cpu")}


def cuda_facts() -> dict[str, Any]:
    """Devices as torch sees them, and what became of a product on each."""
    import torch

    if not torch.cuda.is_available():
        return {"available": False, "why": _why_none()}
    devices = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        devices.append(
            {
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory": total,
                "free": free,
                "problem": _problem_of(number),
            }
        )
    return {"available": True, "devices": devices, "built_for": torch.cuda.get_arch_list()}


def _why_none() -> str:
    import torch

    try:
        torch.cuda.init()
    except Exception as error:  # noqa: BLE001, torch's reasons are of many kinds, and the first line of any is told
        return first_line(error)
    return ""


def _problem_of(number: int) -> str:
    import torch

    try:
        ones = torch.ones(SIDE, SIDE, device=f"cuda:{number}")
        found = float((ones @ ones)[0, 0])
    except Exception as error:  # noqa: BLE001, as above
        return first_line(error)
    return "" if found == SIDE else f"a product of ones gave {found:g} in the place of {SIDE}"


def rank_facts() -> dict[str, Any]:
    """Whether a group of ranks can be made here, of one rank with gloo, and with NCCL where there is a GPU."""
    import torch
    import torch.distributed as dist

    facts: dict[str, Any] = {"available": dist.is_available()}
    if not dist.is_available():
        return facts
    facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if dist.is_nccl_available() else None
    kinds = ["gloo", *(["nccl"] if dist.is_nccl_available() and torch.cuda.is_available() else [])]
    facts["problems"] = {kind: problem for kind in kinds if (problem := _group_problem(kind))}
    return facts


def _group_problem(kind: str) -> str:
    import torch
    import torch.distributed as dist

    try:
        dist.init_process_group(kind, store=dist.HashStore(), rank=0, world_size=1)
        number = torch.ones(1, device="cuda" if kind == "nccl" else "cpu")
        dist.all_reduce(number)
        number.item()
        dist.destroy_process_group()
    except Exception as error:  # noqa: BLE001, as above
        return first_line(error)
    return ""


def first_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".removesuffix(": ")


QUESTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch_facts,
    "torchvision": torchvision_facts,
    "cpu": cpu_facts,
    "cuda": cuda_facts,
    "ranks": rank_facts,
    "precision": precision_facts,
}
"""In this order; the others need torch."""


def answer_all() -> None:
    """Answer all of them, as far as it goes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for name, question in QUESTIONS.items():
        _write(answers, {"asked": name})
        try:
            answer = question()
        except Exception as error:  # noqa: BLE001, a broken library raises anything, and that is the answer
            answer = {"error": first_line(error)}
        _write(answers, {name: answer})
        if name == "torch" and "error" in answer:
            return


def _write(file: TextIO, content: dict[str, Any]) -> None:
    file.write(f"{json.dumps(content)}\n")
    file.flush()


def probe(seconds: float = 180.0) -> dict[str, Any]:
    """The answers by name, of a process of its own; {"error": ...} for the one that it did not survive."""
    command = [sys.executable, "-m", "mmig.doctor.probe"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        output, said, end = done.stdout, done.stderr, f"the process ended {_how(done.returncode)}"
    except subprocess.TimeoutExpired as error:
        output, said, end = error.stdout or b"", error.stderr or b"", f"no answer in {seconds:g} s"
    asked, answers = "torch", dict[str, Any]()
    for line in output.decode(errors="replace").splitlines():
        content = json.loads(line) if line.endswith("}") else {}
        asked = content.pop("asked", asked)
        answers |= content
    if asked not in answers:
        last = (said.decode(errors="replace").strip().splitlines() or [""])[-1]
        answers[asked] = {"error": f"{end}: {last}".removesuffix(": ")}
    return answers


def _how(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


if __name__ == "__main__":
    answer_all()
