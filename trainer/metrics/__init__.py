"""What the trainer measures pictures with, one idea per file. Pictures are (B, 3, H, W) in [-1, 1]."""
