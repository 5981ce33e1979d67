"""Tensors that are cut over ranks."""

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole of a DTensor, gathered; any other tensor as it is. Every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: Tensor | None) -> Tensor:
    """This rank's shard of a whole tensor, cut as a parameter is; the tensor itself where the parameter is whole."""
    if not isinstance(parameter, DTensor):
        return tensor
    # every rank has the whole, so nothing need be sent
    whole = tensor.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
