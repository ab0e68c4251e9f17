"""Benchmarks: ratios of interleaved runs in one process, because seconds depend on the machine and its mood.

    python -m tests.bench [NAME ...] [--width 128] [--size 256] [--repeats 15] [--steps 20] [--threads N]

NAME: `unet` (our U-Net step against ComfyUI's stock U-Net of the same width and weights), `sketch` (the same with the
sketch control), `picture` (a whole picture as the quickstart makes it). pytest never collects this folder.
`--width 320 --size 512` is the released size (about 7 s a step on two cores).
"""
