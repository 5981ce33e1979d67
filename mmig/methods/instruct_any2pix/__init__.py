"""InstructAny2Pix (Li et al. 2023): instructions of text, pictures and sounds edit a picture."""
