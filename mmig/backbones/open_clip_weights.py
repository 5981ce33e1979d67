"""Weights of open_clip's built-in models: pretrained tag -> local file, with its normalisation, and the QuickGELU
check.
"""

from pathlib import Path
from typing import Any

from mmig.backbones.parts import BackboneError
from mmig.base.paths import resolved

_PREPROCESSING_KEYS = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def built_in_weights(
    name: str, weights: str | Path | None, cache_dir: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """The weights file of a built-in model and the preprocessing that belongs to it.

    Args:
        name: open_clip's model name.
        weights: pretrained tag, or a file (.safetensors, or .bin/.pt read with weights_only).
        cache_dir: where weights of tags are kept; default: the hub's own cache (HF_HOME).

    Raises:
        BackboneError: unknown name or tag, QuickGELU mismatch, no weights given, or the weights cannot be fetched.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise BackboneError(
            f"open_clip: no model {name!r}, and no such folder; expected a name of open_clip.list_models() or a folder"
        )
    if weights is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise BackboneError(f"open_clip {name}: expected weights, a file or one of: {tags}; found none")
    if resolved(weights).is_file():
        return resolved(weights), {}
    tag = tag_config(name, str(weights))
    _check_activation(name, str(weights), config, tag)
    return _fetch(name, str(weights), tag, cache_dir), {key: tag[key] for key in _PREPROCESSING_KEYS if key in tag}


def tag_config(name: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of a pretrained tag.

    Raises:
        BackboneError: no such tag of that model, and no such file.
    """
    import open_clip

    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise BackboneError(f"open_clip {name}: {tag!r} is no file and no pretrained tag; known tags: {tags}")
    return config


def _check_activation(name: str, tag: str, config: dict[str, Any], tag_settings: dict[str, Any]) -> None:
    trained, built = bool(tag_settings.get("quick_gelu", False)), bool(config.get("quick_gelu", False))
    if trained == built:
        return
    other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
    raise BackboneError(
        f"open_clip {name} with weights {tag}: the weights were trained {'with' if trained else 'without'} QuickGELU, "
        f"the model is built {'with' if built else 'without'}; use the model name {other}"
    )


def _fetch(name: str, tag: str, settings: dict[str, Any], cache_dir: Path | None) -> Path:
    """The local file of a tag; downloaded into the hub's cache unless it is there."""
    from open_clip.pretrained import download_pretrained

    try:
        return Path(download_pretrained(settings, cache_dir=None if cache_dir is None else str(cache_dir)))
    except Exception as error:  # hub errors, URL errors, RuntimeError
        reason = (str(error).strip().splitlines() or [""])[0]
        raise BackboneError(
            f"open_clip {name} {tag}: the weights are not in the cache and cannot be fetched ({reason}); run "
            "`python -m mmig.backbones fetch --config FILE` where there is a network, or give a local folder"
        ) from error
