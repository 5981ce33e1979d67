"""Pretrained parts from a hub id or a local folder, one module a family: diffusion, llm, clip, blip2.

This file and `parts`, `files`, `hub`, `fetch` and `fingerprint` import no torch, so that command lines start fast;
the family modules import diffusers, transformers and open_clip inside their functions.
"""

from mmig.backbones.parts import BackboneError

__all__ = ["BackboneError"]
