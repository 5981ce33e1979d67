"""What opens an exported autoencoder: it gives pictures back as its latents keep them."""

from mmig.backbones.diffusion import load_vae
from mmig.backbones.parts import VAE
from mmig.evaluation.editors import Reconstruction


def open_editor(path: str) -> Reconstruction:
    """What gives sources back through the autoencoder of a folder or hub id.

    Raises:
        BackboneError: no autoencoder there.
    """
    return Reconstruction(load_vae(path), "source")


open_editor.backbone_settings = {"path": {"vae": VAE}}  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
