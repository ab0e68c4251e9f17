"""AnimeDiffusion (Cao, Meng, Mok, Lee, Liu and Li): diffusion in pixels that colours faces like a reference picture.

unet: the noise predictor. schedule: its noise levels. sampling: the walks between noise and picture.
"""
