"""Benchmarks: ratios of interleaved runs in one process, because seconds depend on the machine and its mood.

    python -m tests.bench [NAME ...] [--width 128] [--size 256] [--repeats 15] [--steps 20] [--threads N]

NAME: `unet` (our U-Net step against ComfyUI's stock U-Net of the same width and weights), `sketch` (the same with the
sketch control), `picture` (a whole picture as the quickstart makes it), `extract` (Extract Sketch against the released
route around the same network; needs OpenCV), `xl` (the XL U-Net against ComfyUI's own SDXL U-Net, with sketch, regions
and background plugin). pytest never collects this folder.
Without ComfyUI, by themselves: `loader` (pictures per second from zip shards) and `index` (time and memory to open an
index of millions of pictures); `python -m tests.bench loader --help` lists their options.
`--width 320 --size 512` is the released size (about 7 s a step on two cores).
"""
