"""Any training configuration as a module with random weights, and what its step costs."""

import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from bench.stages.build import random_batch
from bench.stages.count import LARGEST, Load, Pieces, step_operations
from bench.stages.published import random_weights, with_folders
from bench.stages.sizes import Sizes
from bench.tools.trained import TrainedSteps, cycle_length, quiet, take_steps
from datamodules.schema import AttachmentSettings, Batch
from mmig.base.settings import instantiate
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.run.cli import MMIGCLI
from mmig.training.module import TrainingModule
from mmig.training.optim import trainable
from mmig.training.rng import Draws
from mmig.training.terms import stacked, total_loss
from mmig.training.turns import keeps_apart, share_out

ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULT_DATA = ROOT / "configs/data/shards.yaml"
CHARACTERS = 200
"""Of a sample's texts, as captions have them."""
TURNED_STEPS = 48
"""Steps of several optimisers over which their mean cost is taken: penalties come in every 4th or 16th."""


class Configured(NamedTuple):
    """A configuration as train.py merges it.

    Attributes:
        name: of the run, that of the first file.
        settings: the merged configuration as plain values.
        resolution: pixels that its data are brought to; None where no data are given, or they say nothing of it.
        attachments: what its data make of them.
    """

    name: str
    settings: dict[str, Any]
    resolution: int | None
    attachments: AttachmentSettings


class _ReadError(Exception):
    """Carries the settings out of the command line before anything is built."""


class _ReadOnly(MMIGCLI):
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        raise _ReadError(self.resolved_config())


def read_configs(files: list[str], more: list[str]) -> Configured:
    """Merge configuration files and further arguments as `train.py fit` does; a wrong one ends the process in one line.

    Args:
        files: later ones win. Where none has a `data` section, `configs/data/shards.yaml` stands in for it.
        more: further arguments of train.py.
    """
    given = any("data" in _sections(file) for file in files) or any(word.startswith("--data") for word in more)
    chosen = [*([] if given else [str(DEFAULT_DATA)]), *files]
    options = [word for file in chosen for word in ("--config", file)]
    try:
        with warnings.catch_warnings(action="ignore"), quiet("lightning.fabric"):
            _ReadOnly(["fit", *options, *more, "--name", Path(files[0]).stem])
    except _ReadError as read:
        settings = read.args[0]
        data = settings["data"]["init_args"]
        kept = {item.name: data[item.name] for item in fields(AttachmentSettings) if item.name in data}
        resolution = data.get("resolution") if given else None
        return Configured(settings["name"], settings, resolution, AttachmentSettings(**kept))
    raise AssertionError("the command line ended without its settings")


def _sections(file: str) -> dict[str, Any]:
    """What stands in a file; one that cannot be read is left to the command line, which says so."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def build_configured(configured: Configured, sizes: Sizes, device: torch.device | str) -> TrainingModule:
    """The module of a configuration around random weights, as train.py builds it around those that it loads.

    Args:
        configured: its published backbones are made as large as `sizes` says, local ones as their config.json says.
        sizes: of published parts.
        device: "meta" for counting.

    Raises:
        BackboneError: a hub id whose configuration is not known here, and that is not in the hub cache.
    """
    with with_folders(configured.settings["model"], sizes) as section, random_weights(device):
        module = instantiate(TrainingModule, section)
    return module.to(device).train()


def set_checkpointing(module: nn.Module, on: bool) -> None:
    """Switch gradient checkpointing of all parts that can do it."""
    for part in module.modules():
        if on and hasattr(part, "enable_gradient_checkpointing"):
            part.enable_gradient_checkpointing()
        elif on and hasattr(part, "gradient_checkpointing_enable"):
            part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif not on and hasattr(part, "gradient_checkpointing"):
            part.gradient_checkpointing = False


def attend_plainly(module: nn.Module) -> None:
    """Let transformers' models multiply by themselves: for its kernels it looks at the values of masks."""
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation("eager")


class Cost(NamedTuple):
    """Operations of a step for one sample, None where they were not counted; and how, or why not."""

    operations: float | None
    how: str


def configured_cost(configured: Configured, sizes: Sizes, load: Load = LARGEST) -> Cost:
    """Operations of one training step for one sample, forward and backward, without what is computed again.

    Counted on the meta device, where a module can do without values: `Cost.how` says why not.

    Args:
        configured: of the module.
        sizes: of its published parts; also the resolution.
        load: what a step of a stage of MMIG reads; other modules are given texts of `CHARACTERS`.
    """
    module = build_configured(configured, sizes, "meta")
    set_checkpointing(module, False)
    if isinstance(module, MMIGStage):
        pieces = Pieces(module.mmig, _sizes_of(module, sizes), load)
        return Cost(step_operations(module, pieces), "counted on the meta device")
    apart = keeps_apart(module.turns())
    if apart and any(turn.computed_weights for turn in module.turns()):
        return Cost(None, "not counted on the meta device: computed weights take backward passes of their own")
    attend_plainly(module)
    try:
        with _MeetOnMeta():
            count = counted_turns if apart else counted_step
            cost = count(module.float(), configured_batch(configured, 1, sizes))
    except (RuntimeError, NotImplementedError) as error:  # it looks at values that are none there
        return Cost(None, f"not counted on the meta device: {' '.join(str(error).split())[:160]}")
    return Cost(cost, "counted on the meta device")


def real_cost(configured: Configured, sizes: Sizes) -> Cost:
    """The same from real steps on the CPU, for small modules."""
    device = torch.device("cpu")
    module = build_configured(configured, sizes, device).float()
    set_checkpointing(module, False)
    measured = TrainedSteps(device, 0, 0, counted=cycle_length(module))
    take_steps(module, configured_batch(configured, 1, sizes), measured, "32-true")
    return Cost(measured.operations, "counted in a step on the CPU")


def configured_batch(configured: Configured, size: int, sizes: Sizes) -> Batch:
    """A random batch for a configuration, with every field and attachments; texts are as long as captions."""
    return random_batch(size, sizes, CHARACTERS, configured.attachments)


def counted_step(module: TrainingModule, batch: Batch) -> int:
    """Operations of the forward and backward pass of one step on a batch, of a module with one optimiser."""
    with FlopCounterMode(display=False) as counter:
        values, counts = stacked(module.losses(batch, Draws(module.seed, batch["position"])))
        weights = torch.tensor(list(module.loss_weights.values()), device=values.device)
        total_loss((values * counts).sum(dim=0), counts.sum(dim=0), weights).backward()
    return counter.get_total_flops()


def counted_turns(module: TrainingModule, batch: Batch) -> float:
    """The same of a module with several optimisers, mean of its first `TURNED_STEPS` steps."""
    shares = share_out(module.turns(), trainable(module.named_parameters()), list(module.loss_weights))
    costs: dict[tuple[tuple[str, ...], ...], int] = {}

    def of_step(step: int) -> int:
        weights = module.weights_at(step)
        descended = tuple(
            tuple(name for name in share.losses if weights[name]) if share.turn.due(step) else () for share in shares
        )
        if descended not in costs:
            with FlopCounterMode(display=False) as counter:
                terms = module.losses(batch, Draws(module.seed, batch["position"]))
                for share, names in zip(shares, descended, strict=True):
                    if names:
                        loss = torch.stack([terms[name].values.sum() for name in names]).sum()
                        moved = list(share.parameters.values())
                        torch.autograd.grad(loss, moved, retain_graph=True, allow_unused=True)
            costs[descended] = counter.get_total_flops()
        return costs[descended]

    return sum(map(of_step, range(TURNED_STEPS))) / TURNED_STEPS


class _MeetOnMeta(TorchDispatchMode):
    """Brings to the meta device whatever meets a tensor of it; until then a module may look at values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, spec = tree_flatten((args, kwargs or {}))
        if any(isinstance(value, Tensor) and value.is_meta for value in flat):
            flat = [value.to("meta") if isinstance(value, Tensor) else value for value in flat]
            args, kwargs = tree_unflatten(flat, spec)
        return func(*args, **(kwargs or {}))


def _sizes_of(stage: MMIGStage, sizes: Sizes) -> Sizes:
    """The sizes that `Pieces` asks for, of the parts that a stage really has."""
    model = stage.mmig
    text, vision = model.text_encoder.config, model.mllm.vision
    return Sizes(
        llm={"hidden_size": model.mllm.llm.config.hidden_size},
        vision={} if vision is None else {"image_size": vision.config.image_size},
        text={"max_position_embeddings": text.max_position_embeddings, "hidden_size": text.hidden_size},
        unet={},
        vae={},
        captioner={},
        resolution=sizes.resolution,
    )
