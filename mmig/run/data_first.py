"""A command line that builds the data before the model, and looks at them in between: what cannot be trained on ends a
run before minutes of loading.
"""

import os
import sys
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mmig.base.settings import imported


class DataFirstCLI(LightningCLI):
    """LightningCLI in which a training's data are built first, and asked for a `glance` where they have one.

    `glance(needs) -> str` gives one line about the training samples, or "", and raises ValueError where none of them
    can be trained on. It may draw from no generator; `needs` are `needed_fields` of the module that will be trained.
    """

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As the parent, but data before the model: objects are built in the order in which they are declared."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        named = {f"trainer.{name}": value for name, value in self.trainer_defaults.items() if name != "callbacks"}
        parser.set_defaults(named)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=self.subclass_mode_data)
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=self.subclass_mode_model)

    def instantiate_classes(self) -> None:
        """As the parent, but data of a training are looked at when they are built."""
        looking = [(self._looked_at, L.LightningDataModule, True)]
        self.config_init = self.parser.instantiate(self.config, instantiators=looking)
        self.datamodule, self.model = (self._get(self.config_init, name) for name in ("data", "model"))
        self.trainer = self.instantiate_trainer()

    def _looked_at(self, kind: type[L.LightningDataModule], *given: Any, **options: Any) -> L.LightningDataModule:
        data = kind(*given, **options)
        if self.subcommand == "fit" and callable(glance := getattr(data, "glance", None)):
            model = imported(self._get(self.config, "model").class_path)
            line = glance(getattr(model, "needed_fields", ()))
            if line and is_first_process():
                sys.stderr.write(f"{line}\n")
        return data


def is_first_process() -> bool:
    """Whether this process is the first rank, as launchers say before ranks have met."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
