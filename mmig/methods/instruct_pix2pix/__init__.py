"""InstructPix2Pix (Brooks et al. 2023): an 8-channel UNet edits the source latents by a text."""
