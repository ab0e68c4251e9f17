"""The full-size v1, v1.5 and XL layouts with random weights: load and sample at 512x512 within 24 GiB.

Takes minutes and some 10 GB of disk and memory, so it runs only when asked: COLORIZE_FULL_SIZE=1.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

CHILD = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
import conftest
pack = conftest.load_pack()
import torch
from safetensors.torch import save_file
from colorize.reference.recovery import BackgroundEncoder, RecoveryTransformer, ScalarEmbedder
from colorize.sketch.encoder import SketchEncoder
from colorize.reference.token_projection import TokenProjection
from colorize.unet.config import XL, UNetConfig
from colorize.unet.unet import UNet
from colorize.sketch.xl_encoder import XLSketchEncoder

folder, regions, xl = sys.argv[2], sys.argv[5] == "v1.5", sys.argv[5] == "xl"
dtype = getattr(torch, sys.argv[3])
if sys.argv[4] == "write":
    from comfy.ldm.models.autoencoder import AutoencoderKL
    vae = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4],
               num_res_blocks=2, attn_resolutions=[], dropout=0.0)
    shapes = {}
    with torch.device("meta"):
        for prefix, module in (
            ("model.diffusion_model.", UNet(XL if xl else UNetConfig(region_ranks=(4, 0.5) if regions else None))),
            *([("proj.", TokenProjection())] * xl),
            *([("", BackgroundEncoder(RecoveryTransformer(1024, 6, 256), ScalarEmbedder(256, 1024)))] * regions),
            ("control_encoder.", XLSketchEncoder() if xl else SketchEncoder()),
            ("first_stage_model.", AutoencoderKL(embed_dim=4, ddconfig=vae)),
        ):
            shapes |= {prefix + k: v.shape for k, v in module.state_dict().items()}
    weights = {k: (torch.randn(s) * 0.02 if len(s) > 1 else torch.ones(s)).to(dtype) for k, s in shapes.items()}
    save_file(weights, folder + "/full.safetensors")
    sys.exit()

import folder_paths
folder_paths.add_model_folder_path("checkpoints", folder)
start = time.perf_counter()
with torch.inference_mode():
    model, vae, control, colorizer = pack.run("ColorizeLoadCheckpoint", ckpt_name="full.safetensors")
    loaded = time.perf_counter() - start
    Reference = pack.module("colorize.reference.types").Reference
    width = 1280 if xl else 1024
    tagger = torch.randn(1, 196, 1024) if xl else None
    reference = Reference(torch.randn(1, 257, width), 224, "stretch", tagger_tokens=tagger,
                          background_tokens=torch.randn(1, 256, width) if regions else None)
    figure = torch.zeros(1, 512, 512)
    figure[:, 100:, 150:400] = 1
    mode = dict(mode="fig2fig", figure_mask=figure) if regions else {}
    sketch, latent, _ = pack.run("ColorizePrepareSketch", image=torch.rand(1, 512, 512, 3), width=512, height=512)
    model, pos, neg = pack.run("ColorizeApplyReference", model=model, colorizer=colorizer, reference=reference, **mode)
    pos, neg = pack.run("ControlNetApplyAdvanced", pos, neg, control, sketch, 1.0, 0.0, 1.0)
    start = time.perf_counter()
    steps = 1 if xl else 2
    out, = pack.run("KSampler", model, 0, steps, 4.0, "euler", "normal", pos, neg, latent)
    sampled = time.perf_counter() - start
    image, = pack.run("VAEDecode", samples=out, vae=vae)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(dict(load_s=loaded, sample_s=sampled, peak_gib=peak, finite=bool(torch.isfinite(out["samples"]).all()),
                      shape=list(image.shape), head=colorizer.family.num_head_channels)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, dtype", [("v1", "float16"), ("v1", "float32"), ("v1.5", "float16"), ("xl", "float16")]
)
def test_full_size_model(pack, tmp_path, family, dtype):
    if os.environ.get("COLORIZE_FULL_SIZE") != "1":
        pytest.skip("takes minutes and 10 GB; set COLORIZE_FULL_SIZE=1")
    for step in ("write", "run"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CHILD), str(ROOT), str(tmp_path), dtype, step, family],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(family, dtype, found)
    assert found["finite"] and found["shape"] == [1, 512, 512, 3] and found["head"] == 64
    assert found["peak_gib"] < 20  # leaves room for the system and the reference encoder
    (tmp_path / "full.safetensors").unlink()
