"""What every loader shares: strict loading of a module from a folder, precision, freezing, gradient checkpointing.

`from_pretrained` fills weights that a file lacks with random numbers and says so in a log line only: here it is an
error.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from mmig.backbones.files import variant_of, weight_files
from mmig.backbones.parts import BackboneError

logger = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["float32", "bfloat16", "float16"]
"""In which weights are loaded, by name."""

# Buffers that older versions of the libraries stored and that newer ones compute.
_COMPUTED = re.compile(r"(.*\.)?(position_ids|rotary_emb\.inv_freq)")


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A floating torch dtype from itself or its name ("float32", "bfloat16", "float16").

    Raises:
        BackboneError: no such dtype, or not a floating one.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise BackboneError(f"dtype: expected float32, bfloat16 or float16, found {dtype!r}")
    return found


def load_strictly(
    model_class: type[Model], folder: Path, dtype: torch.dtype | str, *, ignore: str = r"(?!)", **options: Any
) -> Model:
    """`model_class.from_pretrained(folder)` without network; every weight must be in the file and have its place.

    Args:
        ignore: pattern of stored weights that this class may leave aside (the other half of a CLIP).
        options: for from_pretrained; the libraries name the precision differently, so `dtype` is applied here.

    Raises:
        BackboneError: a missing, unexpected or differently shaped weight, or an unreadable file.
    """
    files = weight_files(folder)
    library = model_class.__module__.partition(".")[0]
    if library == "diffusers":
        options["torch_dtype"] = as_dtype(dtype)
    else:  # with ignore_mismatched_sizes the report names them; it is an error below
        options |= {"dtype": as_dtype(dtype), "ignore_mismatched_sizes": True}
    if variant := variant_of(files[0]):
        options["variant"] = variant
        logger.warning("%s: only the %s variant is there, weights rounded to half precision", folder, variant)
    try:
        with _quiet(library):
            model, report = model_class.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=files[0].suffix == ".safetensors",
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # each library and file format raises its own kinds
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(
            f"{_names(files)}: cannot be read as the {model_class.__name__} of {folder / 'config.json'}: {reason}; "
            "fetch the model again or correct its config.json"
        ) from error
    known = [name for name in report["unexpected_keys"] if not _COMPUTED.fullmatch(name) and not re.match(ignore, name)]
    wrong = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(known),
        "of another shape": sorted(str(entry) for entry in report["mismatched_keys"]),
    }
    expected = f"exactly the weights of the {model_class.__name__} of {folder / 'config.json'}"
    refuse_wrong(wrong, _names(files), expected, "fetch the model again or correct its config.json")
    return model


def refuse_wrong(wrong: Mapping[str, Sequence[str]], file: str, expected: str, advice: str) -> None:
    """Raise BackboneError, in one line, where weights are wrong.

    Args:
        wrong: names of weights by what is wrong with them ("missing").
        file: that holds them.
        expected, advice: in words.
    """
    if any(wrong.values()):
        found = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in wrong.items() if names)
        raise BackboneError(f"{file}: expected {expected}, found {found}; {advice}")


def prepare(model: Model, *, frozen: bool, gradient_checkpointing: bool) -> Model:
    """Freeze a loaded model or leave it trainable, and choose the mode in which checkpointing works.

    transformers checkpoints its layers only in train() mode. So a frozen model has every dropout at 0, and is in
    train() mode where it is checkpointed (call eval() around `generate`, which cannot use its cache otherwise), else
    in eval() mode.
    """
    model.requires_grad_(not frozen)
    if frozen:
        remove_dropout(model)
    if gradient_checkpointing:
        _enable_checkpointing(model)
    return model.train(gradient_checkpointing or not frozen)


def remove_dropout(model: nn.Module) -> None:
    """Set every dropout and layer-drop rate of a model to 0, so that train() and eval() compute the same."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in _rates(vars(module)):
            setattr(module, name, 0.0)
        config = vars(module).get("config")
        if config is not None and not isinstance(config, dict):  # transformers; diffusers keeps its rates in modules
            for name in _rates(vars(config)):
                setattr(config, name, 0.0)


def num_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _rates(attributes: dict[str, Any]) -> list[str]:
    return [name for name, value in attributes.items() if "drop" in name and type(value) in (int, float)]


def _enable_checkpointing(model: nn.Module) -> None:
    """Non-reentrant everywhere: parts run more than once a step, and frozen inputs need no gradient."""
    if hasattr(model, "activation_checkpointing_enable"):  # transformers from 5.2x on
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif hasattr(model, "gradient_checkpointing_enable"):  # transformers before
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.enable_gradient_checkpointing()  # diffusers, whose default is non-reentrant


def _names(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


@contextmanager
def _quiet(library: str) -> Iterator[None]:
    """No progress bar and no report of transformers while loading: what it reports is judged here."""
    if library == "diffusers":
        yield
        return
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
