"""Mutations of what the papers say: the steps of training, the order of tokens and regions, the presets."""

from .mutation import STAGES, Mutation

DROP = f"{STAGES}/test_literal.py -k drop"
DUAL = f"{STAGES}/test_literal.py -k 4"
NOISY = f"{STAGES}/test_literal.py -k 3"
V1_5 = f"{STAGES}/test_literal.py -k v1_5"
MODES = f"{STAGES}/test_literal.py -k modes_of"
XL = f"{STAGES}/test_literal_xl.py -k stage_xl"
START = f"{STAGES}/test_literal_xl.py -k begins"
LORA, PLUGIN = (f"{STAGES}/test_literal_xl.py -k {kind}" for kind in ("xl_lora", "xl_plugin"))
LINES, PHASE_2, FID = (f"{STAGES}/test_literal_faces.py -k {test}" for test in ("papers", "phase_2", "fid"))
PRESETS = "tests/trainer/config/test_paper_presets.py"
SPLIT = "tests/colorize/unet/test_split_attention.py"

MUTATIONS = (
    Mutation(
        "v1: dual, second term with the reference",
        "trainer/stages/v1.py",
        "torch.zeros_like(tokens),",
        "tokens,",
        DUAL,
    ),
    Mutation(
        "v1: dual, one noise for both terms",
        "trainer/stages/v1.py",
        "other = drawn_noise(latents.shape, loss, draws).to(self.device)",
        "other = noise; draws.randn(latents.shape); draws.randn(latents.shape[:2])",
        DUAL,
    ),
    Mutation(
        "v1: noisy tokens at t = 0",
        "trainer/stages/v1.py",
        "noisy_tokens(self.schedule, tokens, noise, t, loss.noisy_variant)",
        "noisy_tokens(self.schedule, tokens, noise, torch.zeros_like(t), loss.noisy_variant)",
        NOISY,
    ),
    Mutation(
        "v1: reference drop never applied",
        "trainer/stages/v1.py",
        "return drop_references(tokens, keep_mask(len(tokens), rate, draws))",
        "return drop_references(tokens, keep_mask(len(tokens), rate, draws) * 0 + 1)",
        DROP,
    ),
    Mutation(
        "v1: sketch of the next sample",
        "trainer/stages/v1.py",
        "control = self._colorizer[0].sketch_encoder(model_sketch(sketches))",
        "control = self._colorizer[0].sketch_encoder(model_sketch(sketches).roll(1, dims=0))",
        DROP,
    ),
    Mutation(
        "v1_5: sketch black on white",
        "trainer/stages/v1_5.py",
        "control = colorizer.sketch_encoder(model_sketch(sketches))",
        "control = colorizer.sketch_encoder(-model_sketch(sketches))",
        V1_5,
    ),
    Mutation(
        "v1_5: sketch keeps the whitened background's lines",
        "trainer/stages/v1_5.py",
        'torch.cat([whiten_background(batch["sketch"].float(), figure, bleached, 255.0), masks], dim=1)',
        'torch.cat([batch["sketch"].float(), masks], dim=1)',
        V1_5,
    ),
    Mutation(
        "sketch encoder: the stem's last activation missing",
        "colorize/sketch/encoder.py",
        "return nn.Sequential(*layers, conv(width, model_channels))",
        "return nn.Sequential(*layers[:-1], nn.Identity(), conv(width, model_channels))",
        DROP,
    ),
    *(
        Mutation(f"{stage}: drop schedule {how}", file, "loss.reference_drop_end, progress)", new, tests)
        for stage, file, tests in (
            ("v1", "trainer/stages/v1.py", DROP),
            ("v1_5", "trainer/stages/v1_5.py", V1_5),
            ("xl", "trainer/stages/xl.py", XL),
            ("xl regions", "trainer/stages/xl_regions.py", LORA),
        )
        for how, new in (
            ("frozen", "loss.reference_drop_end, 0.0)"),
            ("reversed", "loss.reference_drop_end, 1.0 - progress)"),
        )
    ),
    *(
        Mutation(
            f"{stage}: offset noise off",
            file,
            "noise = drawn_noise(latents.shape, loss, draws)",
            "noise = (draws.randn(latents.shape), draws.randn(latents.shape[:2]))[0]",
            tests,
        )
        for stage, file, tests in (
            ("v1", "trainer/stages/v1.py", DROP),
            ("v1_5", "trainer/stages/v1_5.py", V1_5),
            ("xl", "trainer/stages/xl.py", XL),
            ("xl regions", "trainer/stages/xl_regions.py", LORA),
        )
    ),
    Mutation(
        "v1_5: figure and background tokens swapped",
        "trainer/stages/v1_5.py",
        "sets = [drop_references(tokens, keep), drop_references(background, keep)]",
        "sets = [drop_references(background, keep), drop_references(tokens, keep)]",
        V1_5,
    ),
    Mutation(
        "v1_5: sketch threshold not passed",
        "trainer/stages/v1_5.py",
        "split=Split(sets, cells, OPTIONS, ours)",
        "split=Split(sets, cells, OPTIONS)",
        V1_5,
    ),
    Mutation(
        "v1_5: figure mask inverted",
        "trainer/stages/v1_5.py",
        'masks = figure_mask(batch["mask"])',
        'masks = 1 - figure_mask(batch["mask"])',
        V1_5,
    ),
    Mutation(
        "v1_5: figure mask of the reference inverted",
        "trainer/stages/v1_5.py",
        "without_figure(references, masks.float() / 255, thresholds)",
        "without_figure(references, 1 - masks.float() / 255, thresholds)",
        V1_5,
    ),
    Mutation(
        "modes: bg2fig with the background's LoRA",
        "colorize/modes.py",
        'Mode("bg2fig", FIGURE)',
        'Mode("bg2fig", BACKGROUND)',
        MODES,
    ),
    Mutation(
        "split attention: a region with the other's LoRA",
        "colorize/unet/kept.py",
        'layer.term("to_v", shown, kind)',
        'layer.term("to_v", shown, kind and {"fg": "bg", "bg": "fg"}[kind])',
        V1_5,
    ),
    Mutation(
        "split attention: mask >= for >",
        "colorize/unet/split_attention.py",
        "masks >= level if options.ties_to_figure else masks > level",
        "masks >= level",
        SPLIT,
    ),
    Mutation("xl: Gram weight ignored", "trainer/stages/xl.py", "gram.weight * gram_loss(", "gram_loss(", XL),
    Mutation(
        "xl: Gram start doubled",
        "trainer/stages/xl.py",
        "progress >= self.config.gram.start",
        "progress >= 2 * self.config.gram.start",
        START,
    ),
    Mutation(
        "xl: Gram loss between the aligned branch and itself",
        "trainer/stages/xl.py",
        "self.y(batch), context, other, figure, shown)",
        "self.y(batch), context, None if other is None else context, figure, shown)",
        XL,
    ),
    Mutation(
        "xl: sketch drop inverted",
        "trainer/stages/xl.py",
        'model_sketch(batch["sketch"])), ~dropped)',
        'model_sketch(batch["sketch"])), dropped)',
        XL,
    ),
    Mutation(
        "xl: inpainting keeps the wrong side",
        "trainer/stages/xl.py",
        'masks = batch["other_reference_mask"][chosen].float() / 255',
        'masks = 1 - batch["other_reference_mask"][chosen].float() / 255',
        XL,
    ),
    Mutation(
        "xl: projection joins in the other order",
        "colorize/reference/token_projection.py",
        "torch.cat([seen, self._tagger(tagger_tokens)], dim=-1)",
        "torch.cat([self._tagger(tagger_tokens), seen], dim=-1)",
        XL,
    ),
    Mutation(
        "xl: projection without the class token",
        "colorize/reference/token_projection.py",
        "self.norm(self.attn(clip_tokens)[:, :count])",
        "self.norm(self.attn(clip_tokens)[:, 1 : 1 + count])",
        XL,
    ),
    Mutation(
        "xl_plugin: sketch not erased",
        "trainer/stages/xl_regions.py",
        "torch.ones_like(bleached) if self.plugin else bleached",
        "bleached",
        PLUGIN,
    ),
    Mutation(
        "xl_plugin: hard blend",
        "trainer/stages/xl_regions.py",
        "soft=True, overshoot=True)",
        "soft=False)",
        PLUGIN,
    ),
    Mutation(
        "xl_plugin: the figure reads the bank too",
        "colorize/unet/unet.py",
        "banks and isinstance(tokens, Split) else None",
        "False else None",
        PLUGIN,
    ),
    Mutation(
        "xl_lora: figure and background tokens swapped",
        "trainer/stages/xl_regions.py",
        "Split([drop_references(tokens, keep) for tokens in sets]",
        "Split([drop_references(tokens, keep) for tokens in sets[::-1]]",
        LORA,
    ),
    Mutation(
        "xl_lora: sketch threshold not passed",
        "trainer/stages/xl_regions.py",
        "cells, self.options, ours)",
        "cells, self.options)",
        LORA,
    ),
    Mutation(
        "xl_lora: figure mask inverted",
        "trainer/stages/xl_regions.py",
        'for name in ("mask", "reference_mask"))\n        figure =',
        'for name in ("mask", "reference_mask"))\n        masks = 1 - masks\n        figure =',
        LORA,
    ),
    Mutation(
        "animediffusion_2: started from the reference",
        "trainer/stages/animediffusion.py",
        'if loss.chain_start == "reference":',
        'if loss.chain_start != "noise":',
        PHASE_2,
    ),
    Mutation(
        "animediffusion_2: walked up with a zeroed condition",
        "trainer/stages/animediffusion.py",
        "predict = self.predictor(condition, timed=not released)",
        "predict = self.predictor(condition * 0, timed=not released)",
        PHASE_2,
    ),
    *(
        Mutation(
            f"XDoG: {name}",
            "colorize/sketch/extractors/xdog.py",
            f"{name}: float = {value}",
            f"{name}: float = {other}",
            LINES,
        )
        for name, value, other in (("k", "3.5", "1.6"), ("p", "9.0", "10.0"), ("epsilon", "0.01", "0.1"))
    ),
    Mutation(
        "warp: inverse",
        "trainer/data/diagonal_warp.py",
        "source_positions(solve(source, target), target,",
        "source_positions(solve(target, source), source,",
        LINES,
    ),
    Mutation(
        "evaluate-faces: FID of the truth with itself",
        "trainer/commands/evaluate_faces.py",
        "_rows(extract, made)",
        "_rows(extract, truth)",
        FID,
    ),
    *(
        Mutation(f"preset {name}: steps", f"trainer/presets/{name}.toml", f"steps = {steps}", "steps = 1000", PRESETS)
        for name, steps in (
            ("v1-paper", "250000"),
            ("v1-noisy-paper", "350000"),
            ("v1_5-paper", "112500"),
            ("xl-paper", "70000"),
            ("animediffusion", "297_150"),
        )
    ),
)
