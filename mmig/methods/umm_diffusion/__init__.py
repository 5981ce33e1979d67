"""UMM-Diffusion (Ma et al. 2023): a subject's picture takes a word's place inside the sentence that is drawn."""
