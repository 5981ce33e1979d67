"""A module's optimisers: one for each turn, with its groups, its learning rate as a function of the step, its clipping.

Lightning counts the calls of all optimisers as steps. Here a step is one global batch, whichever of them are due in it.
"""

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from mmig.training.optim import OptimizerConfig, clip_grad_norm, grouped_by_turn, lr_factor, optimizer_of, trainable
from mmig.training.stored import StoredModule
from mmig.training.turns import Share, Turn, keeps_apart, share_out


class OptimizingModule(StoredModule):
    """What has an optimiser for each of its turns.

    Args:
        optimizer: settings of all optimisers, by group where they differ.
        loss_weights: weight of each loss term, by name.

    Attributes:
        not_averaged: dotted prefixes of trained parameters of which EMA keeps no average, such as a discriminator's.
    """

    not_averaged: tuple[str, ...] = ()

    def __init__(self, optimizer: OptimizerConfig, loss_weights: dict[str, float]) -> None:
        super().__init__()
        self.optimizer_config = optimizer
        self.loss_weights = loss_weights
        # kept, for a walk through thousands of frozen weights takes milliseconds a step
        self._shares: list[Share] = []
        self._groups: dict[str, dict[str, list[nn.Parameter]]] = {}  # by turn and group
        self._apart = False

    def turns(self) -> tuple[Turn, ...]:
        """The optimisers, and what each of them moves; asked when they are built."""
        return (Turn(),)

    def weights_at(self, step: int) -> Mapping[str, float]:
        """Weight of each loss term in a step (0 = the first), for a term that begins later or counts now and then.

        With several turns or computed weights, a term of weight 0 is not computed in that step.
        """
        return self.loss_weights

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """An optimiser a turn, over its parameters that require a gradient, in the groups of `optimizer.groups`.

        Raises:
            ValueError: nothing is trainable, or turns or groups do not fit what is (`share_out`, `grouped_by_turn`).
        """
        turns = self.turns()
        self._shares = share_out(turns, trainable(self.named_parameters()), list(self.loss_weights))
        self._apart = keeps_apart(turns)
        self._groups = grouped_by_turn(
            {turn.name: parameters for turn, parameters, _ in self._shares}, self.optimizer_config
        )
        return [optimizer_of(groups, self.optimizer_config) for groups in self._groups.values()]

    def optimizer_names(self) -> list[str]:
        """Names of the turns."""
        return [share.turn.name for share in self._shares]

    def on_train_start(self) -> None:
        """Let Lightning count from our step, so that `max_steps`, log axes and the progress bar continue."""
        loop = self.trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = self.step
        loop.batch_progress.total.ready = loop.batch_progress.total.completed = self.step
        self._tell_step()

    def count_step(self) -> None:
        """Count a step: Lightning counts the calls of all optimisers, and would end the run by that number."""
        self.step += 1
        self._tell_step()

    def _tell_step(self) -> None:
        optimizer_steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
        optimizer_steps.ready = optimizer_steps.completed = self.step

    def _due(self) -> tuple[list[Share], dict[str, float]]:
        """Turns that act in this step, and the weights of the terms that are computed in it.

        Raises:
            ValueError: `weights_at` names others than `loss_weights`, or leaves nothing to do.
        """
        weights, kind = self.weights_at(self.step), type(self).__name__
        if weights.keys() != self.loss_weights.keys():
            known, found = sorted(self.loss_weights), sorted(weights)
            raise ValueError(f"{kind}.weights_at({self.step}): expected the weights of {known}, found those of {found}")
        weights = {name: weights[name] for name in self.loss_weights}
        if not self._apart:
            return self._shares, weights
        due = [share for share in self._shares if share.turn.due(self.step) and any(map(weights.get, share.losses))]
        if not due:
            raise ValueError(f"{kind}: in step {self.step} every term of the turns that are due has weight 0")
        needed = {name for share in due for name in share.losses}
        return due, {name: weight for name, weight in weights.items() if weight and name in needed}

    def _ready_optimizers(self, due: Sequence[Share]) -> dict[str, LightningOptimizer]:
        """Optimisers of the turns that act, with their rates for this step; no parameter has a gradient afterwards."""
        found = self.optimizers()
        ready = dict(zip(self.optimizer_names(), found if isinstance(found, list) else [found], strict=True))
        for optimizer in ready.values():
            optimizer.zero_grad()
        for share in due:
            self._set_learning_rate(ready[share.turn.name], share.turn.start)
        return {share.turn.name: ready[share.turn.name] for share in due}

    def _set_learning_rate(self, optimizer: LightningOptimizer, start: int) -> None:
        config = self.optimizer_config
        total = config.total_steps or self.trainer.max_steps
        if config.schedule == "cosine" and total < 1:
            raise ValueError("optimizer.schedule 'cosine' needs optimizer.total_steps or trainer.max_steps")
        factor = self._samples_of_rate() * lr_factor(config, self.step - start, total - start)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def _samples_of_rate(self) -> int:
        """By how many samples a step the configured rates are multiplied, see `OptimizerConfig.lr_rule`."""
        if self.optimizer_config.lr_rule == "absolute":
            return 1
        size = getattr(self.trainer.datamodule, "global_batch_size", None)  # type: ignore[attr-defined]
        if size is None:
            raise ValueError(
                "optimizer.lr_rule: 'scaled' needs data that say their global_batch_size, found "
                f"{type(self.trainer.datamodule).__name__}; give 'absolute' and the rate itself"  # type: ignore[attr-defined]
            )
        return size

    def _clip_gradients(self, due: Sequence[Share]) -> dict[str, Tensor]:
        """Clip the gradient norm of each group of the turns that act.

        Returns:
            The norms as they were: "grad_norm" over all of them and "grad_norm/<prefix>" of each named group; with
            several turns "grad_norm/<turn>" and "grad_norm/<turn>/<group>".
        """
        found, totals = {}, []
        for turn in (share.turn.name for share in due):
            norms = {}
            for group, parameters in self._groups[turn].items():
                norm = clip_grad_norm(parameters, self.optimizer_config.group(group).clip_norm)
                norms[group] = norm.to(self.device)  # of a group without gradient it would lie on the CPU
            total = norms[""] if norms.keys() == {""} else torch.linalg.vector_norm(torch.stack(list(norms.values())))
            totals.append(total)
            place = "grad_norm"
            if len(self._shares) > 1:
                place = f"grad_norm/{turn}"
                found[place] = total
            found |= {f"{place}/{group}": norm for group, norm in norms.items() if group not in ("", turn)}
        whole = totals[0] if len(totals) == 1 else torch.linalg.vector_norm(torch.stack(totals))
        return {"grad_norm": whole} | found
