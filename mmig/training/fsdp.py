"""Fully sharded training (FSDP2) of any TrainingModule, by configuration only; on the CPU with gloo too.

Lightning's `ModelParallelStrategy` leaves the sharding to each module, synchronises gradients in every micro-batch and
saves in place, past everything that makes a checkpoint whole. This subclass shards for the module, and `RunCheckpoint`
saves.
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from mmig.training.turns import keeps_apart

UNITS = (
    "BasicTransformerBlock",
    "ResnetBlock2D",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
    "LlamaDecoderLayer",
    "CLIPEncoderLayer",
    "Blip2EncoderLayer",
    "Blip2QFormerLayer",
    "OPTDecoderLayer",
    "T5Block",
)
"""Classes of diffusers and transformers whose weights are gathered together, for the time of their forward."""


class FSDP2Strategy(ModelParallelStrategy):
    """Shards weights, gradients and optimiser states over the ranks, or over those of a node (HSDP).

    Args:
        replicas: copies of the sharded model: 1 shards over all ranks, "nodes" keeps one on each node (HSDP), so that
            only gradients cross between nodes. A number must divide the number of ranks.
        shard_frozen: dotted names of parts whose frozen weights are sharded as well, such as "mmig.mllm.llm"; they are
            then gathered in every forward. All other frozen weights each rank holds whole, which is faster where they
            fit, and must be so where ranks do not run a part equally often (the autoencoder decodes image by image).
        reshard_after_forward: free the gathered weights between forward and backward (ZeRO-3), which saves memory and
            gathers once more a micro-batch; False keeps them until the backward has used them (ZeRO-2).
        param_dtype: of the gathered weights, and of what the gathering moves; None: as they are stored. Gradients are
            reduced in float32 in either case.
        units: class names of the modules that are gathered one at a time.
        process_group_backend: None takes nccl on GPUs and gloo on CPUs.
        timeout: longest wait for another rank.

    Raises:
        ValueError: `replicas` is below 1 or does not divide the number of ranks; or `shard_frozen` names no part.
    """

    def __init__(
        self,
        replicas: int | Literal["nodes"] = 1,
        shard_frozen: list[str] | None = None,
        reshard_after_forward: bool = True,
        param_dtype: Literal["bfloat16", "float32"] | None = None,
        units: list[str] | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        if replicas != "nodes" and replicas < 1:
            raise ValueError(f"replicas must be at least 1 or 'nodes', found {replicas}")
        self.replicas = replicas
        self.shard_frozen = tuple(shard_frozen or ())
        self.reshard_after_forward = reshard_after_forward
        self.param_dtype = param_dtype
        self.units = tuple(units or UNITS)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimiser's state comes with the checkpoint, in shards, as the weights do."""
        return True

    def setup_environment(self) -> None:
        """Join the process group and lay the ranks out, replicas by shards."""
        self._setup_distributed()
        self._device_mesh = self._mesh()

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the module, then build the optimiser over the shards.

        Raises:
            ValueError: the module trains in several turns or with computed weights.
        """
        turns = self.lightning_module.turns()
        if trainer.state.fn == TrainerFn.FITTING and keeps_apart(turns):
            # FSDP2 reduces within each backward, into shards in which the next one's gradients would be added
            raise ValueError(
                f"trainer.strategy fsdp2: {type(self.lightning_module).__name__} trains with several optimisers or "
                f"computed weights ({', '.join(turn.name for turn in turns)}), whose gradients cannot be kept apart in "
                "shards; expected ddp, or one device"
            )
        self.accelerator.setup(trainer)
        shard(self.lightning_module, self._device_mesh, self.units, self._policy(), self._shard_options())
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()  # what is not sharded
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Let gradients of a micro-batch add up on each rank, unreduced."""
        root = self.lightning_module
        root.set_requires_gradient_sync(False)
        root.set_reshard_after_backward(self.reshard_after_forward)  # with memory for it, the weights stay gathered
        try:
            yield
        finally:
            root.set_requires_gradient_sync(True)
            root.set_reshard_after_backward(True)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Hold all weights whole on every rank, so that ranks may do unequal work; it takes the memory of them all.

        Sampling needs it: ranks edit different numbers of images, under texts of different lengths, and would
        otherwise wait for each other's gathering.
        """
        root = self.lightning_module
        sharded = [part for part in root.modules() if isinstance(part, FSDPModule)]
        root.set_reshard_after_forward(False)
        for part in sharded:
            part.unshard()
        try:
            yield
        finally:
            root.set_reshard_after_forward(self.reshard_after_forward)
            for part in sharded:
                part.reshard()

    # Checkpoints hold the shards as they are ----------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights of the module, sharded ones as DTensors; nothing is gathered."""
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """State of the optimiser, moments as DTensors."""
        return ParallelStrategy.optimizer_state(self, optimizer)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint of any strategy and number of ranks, cut into this rank's shards; always weights only."""
        return self.checkpoint_io.load_checkpoint(  # `mmig.checkpoints.files.AnyFormIO`
            checkpoint_path, parameters=dict(self.lightning_module.named_parameters())
        )

    def load_model_state_dict(self, checkpoint: dict[str, Any], strict: bool = True) -> None:
        """Copy the checkpoint's weights into the module."""
        ParallelStrategy.load_model_state_dict(self, checkpoint, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Put the checkpoint's moments into the optimiser."""
        ParallelStrategy.load_optimizer_state_dict(self, checkpoint)

    def _mesh(self) -> DeviceMesh:
        replicas = self.num_nodes if self.replicas == "nodes" else self.replicas
        if self.world_size % replicas:
            raise ValueError(f"replicas: {replicas} copies cannot be laid over {self.world_size} ranks: no divisor")
        shards = self.world_size // replicas
        kind = self.root_device.type
        if replicas == 1:
            return init_device_mesh(kind, (shards,), mesh_dim_names=("shard",))
        return init_device_mesh(kind, (replicas, shards), mesh_dim_names=("replicate", "shard"))

    def _policy(self) -> MixedPrecisionPolicy:
        dtype = None if self.param_dtype is None else getattr(torch, self.param_dtype)
        # autocast, or the parts themselves, cast the inputs; targets and noise must keep their precision
        return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)

    def _shard_options(self) -> dict[str, Any]:
        if self.shard_frozen and getattr(self.lightning_module.trainer.datamodule, "features", None) is not None:
            raise ValueError(
                "shard_frozen and data.features: with cached features the frozen parts run on some ranks and not on "
                "others, for which a sharded part would wait for ever; leave one of them out"
            )
        whole = {name: p for name, p in self.lightning_module.named_parameters() if not p.requires_grad}
        for part in self.shard_frozen:
            members = [name for name in whole if name.startswith(f"{part}.")]
            if not members:
                kind = type(self.lightning_module).__name__
                raise ValueError(f"shard_frozen: {kind} has no frozen weights in {part!r}")
            for name in members:
                del whole[name]
        return {"reshard_after_forward": self.reshard_after_forward, "ignored_params": set(whole.values())}


def shard(
    module: nn.Module, mesh: DeviceMesh, units: tuple[str, ...], policy: MixedPrecisionPolicy, options: dict[str, Any]
) -> None:
    """Shard a training module in place: each unit by itself, the rest as one group around `computed`.

    Args:
        module: a TrainingModule; its `computed` is the one way in from which every unit is reached.
        mesh: one dimension, or replicas by shards.
        units: class names.
        policy: dtypes of gathering and reducing.
        options: more of `fully_shard`.
    """
    ignored = options["ignored_params"]
    for parameter in module.parameters():
        if parameter not in ignored:
            parameter.data = parameter.data.contiguous()  # fully_shard takes no other memory format
    for part in [part for part in module.modules() if type(part).__name__ in units]:
        if any(parameter not in ignored for parameter in part.parameters()):
            fully_shard(part, mesh=mesh, mp_policy=policy, **options)
    fully_shard(module, mesh=mesh, mp_policy=policy, **options)
    register_fsdp_forward_method(module, "computed")
    module._get_fsdp_state()._lazy_init()  # else a part that runs first, in sampling, would take itself for the root


def whole_weights(trainer: L.Trainer) -> contextlib.AbstractContextManager[None]:
    """For a `with` block in which every rank can use all weights by itself; every rank must enter."""
    strategy = trainer.strategy
    return strategy.gathered() if isinstance(strategy, FSDP2Strategy) else contextlib.nullcontext()


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="fully sharded training of mmig's modules")
