"""The five stages of MMIG's training, and fine-tuning."""
