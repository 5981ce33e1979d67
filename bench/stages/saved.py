"""What the forward passes of a training step keep for the backward one, counted for one sample on the meta device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.stages.count import LLM_TOKENS, RESPONSE_TOKENS, Pieces
from bench.stages.sizes import Sizes
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.fsdp import UNITS


class Kept:
    """Counts the bytes of what autograd keeps inside the `with` block, each storage once, without parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.known = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
        self.alive: list[Tensor] = []  # so that no storage is used twice under one address
        self.total = 0

    def __enter__(self) -> "Kept":
        """Begin to count."""
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """End counting."""
        self.hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base
        if id(whole) not in self.known:
            self.known.add(id(whole))
            self.alive.append(whole)
            self.total += whole.nbytes
        return tensor


def saved_bytes(stage: MMIGStage, sizes: Sizes, checkpointing: bool) -> int:
    """Bytes that one sample keeps: two passes of the denoiser (under the response and under the mixed embedding), the
    language model and the image tower; with checkpointing also the largest block, which is computed again.
    """
    pieces = Pieces(stage.mmig, sizes)
    adapts = any(parameter.requires_grad for parameter in stage.mmig.mllm.parameters())
    passes: list[tuple[int, Callable[[], Tensor]]] = [(2, lambda: pieces.unet(adapts))]
    if adapts:
        passes += [(1, lambda: pieces.llm(LLM_TOKENS, RESPONSE_TOKENS + 1, grad=True)), (1, pieces.vision)]
    total = sum(times * _kept(stage, work) for times, work in passes)
    return total + (max(_largest_unit(stage, work) for _, work in passes) if checkpointing else 0)


def _kept(stage: MMIGStage, work: Callable[[], Tensor]) -> int:
    with Kept(stage) as kept:
        value = work()
    del value
    return kept.total


def _largest_unit(stage: MMIGStage, work: Callable[[], Tensor]) -> int:
    """Bytes that the largest block of a pass keeps when it runs without checkpointing."""
    largest, starts = 0, []
    model = stage.mmig
    units = [module for module in model.modules() if type(module).__name__ in UNITS]
    with Kept(stage) as kept:

        def begin(*_: object) -> None:
            starts.append(kept.total)

        def end(*_: object) -> None:
            nonlocal largest
            largest = max(largest, kept.total - starts.pop())

        handles = [unit.register_forward_pre_hook(begin) for unit in units]
        handles += [unit.register_forward_hook(end) for unit in units]
        switched = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
        for module in switched:
            module.gradient_checkpointing = False
        work()
        for module in switched:
            module.gradient_checkpointing = True
        for handle in handles:
            handle.remove()
    return largest
