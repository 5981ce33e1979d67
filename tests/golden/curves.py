"""Short trainings of every method from fixed seeds: what a refactoring must not change.

`python -m tests.golden.curves --out FILE [NAME ...]` trains them on tiny random backbones and writes every number:
each loss term, the total and the gradient's norm of each step, each term of a validation afterwards, and brightness and
contrast of some edits. `--weights` adds a checksum of the trained weights, which only one machine gives twice.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from mmig.editor import with_settings
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.instruct_pix2pix.pipeline import EditSampling
from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.methods.mmig.editor import SamplingConfig
from mmig.methods.mmig.image_path import ImagePathConfig
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.stages.finetune import FineTune, Updates
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage2, Stage3, Stage4, Stage5
from mmig.training.lora import LoRAConfig
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig, OptimizerGroup
from mmig.training.rng import generator
from tests.golden.samples import BATCH_SIZE, loader, make_batch
from tests.mmig.methods.latent_diffusion.support import adversarial
from tests.mmig.methods.mmig.stages.support import seeing_backbones, settled_stage
from tests.tiny_fixtures import TinyBackbones

NUM_STEPS = 8
FILE = Path(__file__).with_name("curves.json")
Curves = dict[str, list[float]]


def mmig_stage(kind: type[MMIGStage], **settings: Any) -> Callable[[TinyBackbones], TrainingModule]:
    """How to build a stage of MMIG whose readings of the losses are all in use."""

    def build(folders: TinyBackbones) -> TrainingModule:
        drawn = "unet" in kind.trained_parts
        objective = ObjectiveConfig(
            condition_drop=0.1 if drawn else 0.0,
            text_only=0.0 if kind is Stage1 else 0.25,
            image_path=ImagePathConfig(deliberate_share=0.25 if kind is Stage5 else 0.0),
        )
        optimizer = OptimizerConfig(lr=1e-3, warmup_steps=2, groups={"mmig.mmsm": OptimizerGroup(lr=3e-3)})
        return settled_stage(
            folders,
            kind,
            optimizer=optimizer,
            objective=objective,
            sampling=SamplingConfig(num_steps=3, guidance_scale=2.0),
            micro_batch_size=2,
            **settings,
        )

    return build


def instruct_pix2pix(folders: TinyBackbones) -> TrainingModule:
    """InstructPix2Pix that widens a text-to-image UNet, with every kind of text."""
    return InstructPix2PixModule(
        OptimizerConfig(lr=1e-3),
        {"sdm": 1.0},
        str(folders.stable_diffusion),
        str(folders.stable_diffusion),
        text={"instruction": 1, "response": 1, "target_caption": 1},
        generation=0.25,
        weighting="min_snr",
        sampling=EditSampling(3, 3.0, 1.5),
        micro_batch_size=2,
    )


def text_to_image(folders: TinyBackbones) -> TrainingModule:
    """Text to image from either side of a sample."""
    root = str(folders.stable_diffusion)
    return TextToImageModule(OptimizerConfig(lr=1e-3), {"sdm": 1.0}, root, root, micro_batch_size=2)


def autoencoder(_folders: TinyBackbones) -> TrainingModule:
    """A fresh autoencoder."""
    torch.manual_seed(0)
    return AutoencoderModule(
        OptimizerConfig(lr=1e-3),
        {"reconstruction": 1.0, "squared": 0.5, "kl": 1e-4},
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        micro_batch_size=2,
    )


def adversarial_autoencoder(folders: TinyBackbones) -> TrainingModule:
    """The same with LPIPS, against a discriminator."""
    return adversarial(folders.llama.parent, lr=1e-4, micro_batch_size=2)


METHODS: dict[str, Callable[[TinyBackbones], TrainingModule]] = {
    "stage1": mmig_stage(Stage1),
    "stage2": mmig_stage(Stage2),
    "stage3": mmig_stage(Stage3),
    "stage4": mmig_stage(Stage4, profile="practical"),
    "stage5": mmig_stage(Stage5),
    "finetune": mmig_stage(FineTune, lora=Updates(unet=LoRAConfig(rank=2), llm=LoRAConfig(rank=2))),
    "instruct_pix2pix": instruct_pix2pix,
    "text_to_image": text_to_image,
    "autoencoder": autoencoder,
    "adversarial_autoencoder": adversarial_autoencoder,
}


class Recorder(L.Callback):
    """Keeps what every step came to."""

    def __init__(self) -> None:
        self.curves: Curves = {}

    def on_train_batch_end(self, _trainer: L.Trainer, module: TrainingModule, *_: Any) -> None:
        """Add the step's terms, total and gradient norm."""
        outcome = module.outcome
        for name, value in {"loss": outcome.loss, "grad_norm": outcome.grad_norm, **outcome.terms}.items():
            self.curves.setdefault(f"train/{name}", []).append(value)


def train(build: Callable[[TinyBackbones], TrainingModule], folders: TinyBackbones, weights: bool) -> Curves:
    """Train one method and measure it."""
    torch.manual_seed(0)
    module, recorder = build(folders), Recorder()
    trainer = L.Trainer(
        max_epochs=-1,
        max_steps=NUM_STEPS,
        accelerator="cpu",
        logger=False,
        callbacks=[recorder],
        log_every_n_steps=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(0, NUM_STEPS))
    curves = recorder.curves
    measured = trainer.validate(module, loader(NUM_STEPS, 2), verbose=False)[0]
    curves |= {name: [value] for name, value in sorted(measured.items())}
    curves |= edits(module)
    if weights:
        curves["weights"] = [float(checksum(module))]
    return curves


@torch.no_grad()
def edits(module: TrainingModule) -> Curves:
    """Mean and standard deviation of what the method makes of three samples; nothing where it edits no images."""
    if isinstance(module, AutoencoderModule):
        return {}
    editor = module.eval().make_pipeline()
    if not isinstance(module, MMIGStage | InstructPix2PixModule):
        editor = with_settings(editor, {"num_steps": 3})
    batch = make_batch(20)
    images = editor(batch, [generator("golden", row) for row in range(BATCH_SIZE)]).images.flatten(1)
    return {"edit/mean": images.mean(dim=1).tolist(), "edit/std": images.std(dim=1).tolist()}


def checksum(module: TrainingModule) -> int:
    """32 bits that tell all trained weights."""
    digest = hashlib.sha256()
    for _, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad:
            digest.update(parameter.detach().float().numpy().tobytes())
    return int.from_bytes(digest.digest()[:4], "big")


def compute(names: Sequence[str], weights: bool = False) -> dict[str, Curves]:
    """The curves of these methods, each from the same random backbones."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        backbones = seeing_backbones(Path(folder))
        return {name: train(METHODS[name], backbones, weights) for name in names}


def main(args: Sequence[str] | None = None) -> None:
    """Write the curves as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"methods, all by default: {', '.join(METHODS)}")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--weights", action="store_true", help="a checksum of the trained weights too")
    options = parser.parse_args(args)
    found = compute(options.names or list(METHODS), options.weights)
    lines = [
        f'  "{method}": {{\n'
        + ",\n".join(f'    "{name}": {json.dumps(values)}' for name, values in curves.items())
        + "\n  }"
        for method, curves in found.items()
    ]
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
