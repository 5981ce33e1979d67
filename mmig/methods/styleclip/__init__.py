"""StyleCLIP (Patashnik et al. 2021) on our own StyleGAN2: pictures edited by moving the codes that draw them."""
