"""What a checkpoint holds: version, step, what differs from the named backbones, and optimisers keyed by name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn

from mmig import __version__
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.named import BackboneSettings, Origin, origins
from mmig.training.optim import state_by_index, state_by_name
from mmig.training.turns import NAME


class StoredModule(L.LightningModule):
    """A LightningModule whose checkpoints leave frozen backbones out and name them by fingerprint instead.

    Attributes:
        backbone_settings: which arguments of a method name backbones, and which parts are loaded from them.
        origins: where each backbone comes from, by its name; `name_backbones` fills it.
        exported_parts: sub-folder of an exported folder -> the module whose weights it holds, by its dotted name.
            --init_from takes these from there.
        step: steps taken, each on one global batch of the stream.
    """

    backbone_settings: ClassVar[BackboneSettings] = {}
    exported_parts: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[str, Origin] = {}
        self.strict_loading = False  # backbones are not in the checkpoint; `on_load_checkpoint` checks the rest
        self.step = 0
        self._described: dict[str, dict[str, str]] = {}
        self._carried: frozenset[str] = frozenset()

    def name_backbones(self, **settings: Any) -> None:
        """Note where the backbones come from, by the arguments that `backbone_settings` speaks of.

        Raises:
            BackboneError: see `mmig.backbones.named.origins`.
        """
        self.origins = origins(self.backbone_settings, settings)

    def named_backbones(self) -> dict[str, nn.Module]:
        """Frozen pretrained parts by name; their weights stay out of checkpoints while they are not trained."""
        return {}

    def describe_origins(self) -> dict[str, dict[str, str]]:
        """Path and fingerprint of everything pretrained that the module was made from, for a run's manifest."""
        return {name: self._describe(name) for name in self.origins}

    def describe_backbones(self) -> dict[str, dict[str, str]]:
        """The same of what the module still depends on, for checkpoints.

        What is only the start of weights that a run stores whole (a UNet that trains) is not there: it may go.
        """
        kept = self.named_backbones()
        needed = [name for name, origin in self.origins.items() if name in kept or not origin.part.has_weights]
        return {name: self._describe(name) for name in needed}

    def _describe(self, name: str) -> dict[str, str]:
        if name not in self._described:  # it reads files
            origin = self.origins[name]
            self._described[name] = {"path": origin.path, "fingerprint": fingerprint(origin)}
        return self._described[name]

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each named backbone."""
        return {name: entry["fingerprint"] for name, entry in self.describe_backbones().items()}

    def carry(self, names: Iterable[str]) -> None:
        """Store these weights from now on, trained or not: they came from a checkpoint and differ from the backbones.

        A UNet that an earlier stage trained and this one keeps frozen would otherwise be lost with the next checkpoint.
        """
        self._carried |= frozenset(names)

    def own_names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of another run under the names that they have in this module; a subclass knows of renamed ones."""
        return weights

    def read_exported(self, path: Path) -> dict[str, Any] | None:
        """Weights and backbones of an exported folder in the form of a checkpoint, by a subclass whose parts lie there
        otherwise than `exported_parts` can say; None: it is no such folder.
        """
        return None

    def stored_names(self) -> set[str]:
        """Names of the weights and buffers that a checkpoint holds: what is carried, and all but frozen backbones."""
        frozen = {
            id(tensor)
            for module in self.named_backbones().values()
            for tensor in [*module.parameters(), *module.buffers()]
            if not tensor.requires_grad
        }
        # tied weights stand in the state under each of their names
        tensors = dict(self.named_parameters(remove_duplicate=False))
        tensors |= dict(self.named_buffers(remove_duplicate=False))
        # what stands in the state alone are the scales of quantised layers, which come with their backbone
        names = [name for name in self.state_dict() if name in tensors]
        return {name for name in names if name in self._carried or id(tensors[name]) not in frozen}

    def optimizer_names(self) -> list[str]:
        """Names of the optimisers, in their order."""
        return [NAME]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what differs from the backbones, key optimisers by name, and drop Lightning's loop counters."""
        stored = self.stored_names()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in stored}
        optimizers = zip(self.optimizer_names(), self.trainer.optimizers, strict=True)
        states = zip(optimizers, checkpoint["optimizer_states"], strict=True)
        checkpoint["optimizer_states"] = [
            {"turn": turn, **state_by_name(state, self._parameter_names(optimizer))}
            for (turn, optimizer), state in states
        ]
        checkpoint["version"] = __version__
        checkpoint["step"] = self.step
        checkpoint["backbones"] = self.describe_backbones()
        checkpoint.pop("loops")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check weights and backbones, and bring the optimisers' states back into Lightning's form.

        Raises:
            ValueError: it holds other weights, backbones, optimisers or parameters of theirs than this module.
        """
        self.check_backbones(checkpoint["backbones"])
        self.check_weights(checkpoint["state_dict"])
        self.carry(checkpoint["state_dict"])
        self.step = checkpoint["step"]
        fresh = self.configure_optimizers()
        optimizers = list(fresh) if isinstance(fresh, list | tuple) else [fresh]
        # of before there were several, states have no name
        states = {state.get("turn", NAME): state for state in checkpoint["optimizer_states"]}
        if sorted(states) != sorted(self.optimizer_names()):
            raise ValueError(
                f"the checkpoint holds the optimisers {sorted(states)}, {type(self).__name__} has "
                f"{sorted(self.optimizer_names())}; use --init_from to start with fresh ones"
            )
        checkpoint["optimizer_states"] = [
            state_by_index(states[turn], optimizer.state_dict(), self._parameter_names(optimizer))
            for turn, optimizer in zip(self.optimizer_names(), optimizers, strict=True)
        ]

    def check_weights(self, weights: dict[str, Tensor]) -> None:
        """Raise ValueError unless `weights` are those that this module stores, or these and some of its backbones'."""
        own = self.state_dict()
        missing, extra = sorted(self.stored_names() - weights.keys()), sorted(weights.keys() - own.keys())
        if missing or extra:
            raise ValueError(
                f"the checkpoint does not fit {type(self).__name__}: missing {missing[:3]} ({len(missing)} in all), "
                f"unexpected {extra[:3]} ({len(extra)}); it was written by another method, stage or size; "
                "--init_from starts a new run from the weights of an earlier stage"
            )
        for name, value in weights.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"the checkpoint's {name} has shape {list(value.shape)}, {type(self).__name__} expects "
                    f"{list(own[name].shape)}: the configs differ in a width"
                )

    def check_backbones(self, saved: dict[str, dict[str, str]]) -> None:
        """Raise ValueError where a backbone is not the one that was trained on, judged by fingerprint."""
        current = self.describe_backbones()
        for name, then in saved.items():
            now = current.get(name)
            if now is None or now["fingerprint"] != then["fingerprint"]:
                found = "none" if now is None else f"{now['path']} ({now['fingerprint'][:12]})"
                raise ValueError(
                    f"backbone {name}: the checkpoint was trained on {then['path']} ({then['fingerprint'][:12]}), "
                    f"the config names {found}; give the same files"
                )

    def _parameter_names(self, optimizer: torch.optim.Optimizer) -> list[str]:
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
