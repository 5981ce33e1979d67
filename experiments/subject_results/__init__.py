"""What is shown about UMM-Diffusion on the small world's subjects: tables and pictures made of its evaluations."""
