"""Preflight: every finding appears where it should and nowhere else, and nothing it is given makes it fail."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from colorize.families import Family
from colorize.pictures.line_measures import line_width, measure_lines
from colorize.preflight.examine import Inputs, examine, report
from colorize.preflight.finding import LEVELS
from colorize.preflight.preview import preview

NAN = float("nan")


def drawing(height=512, width=512, line=3, ink=0.0, paper=1.0):
    """Dark lines on light paper: a grid, `line` pixels wide."""
    image = torch.full((1, height, width, 3), paper)
    for start in range(30, min(height, width) - line, 80):
        image[:, start : start + line] = ink
        image[:, :, start : start + line] = ink
    return image


def colourful(height=512, width=512):
    image = torch.rand(1, height // 8 + 1, width // 8 + 1, 3, generator=torch.Generator().manual_seed(0))
    return image.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]


def centre(height=512, width=512, value=1.0):
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 : -height // 4, width // 4 : -width // 4] = value
    return mask


def colorizer(name="v1", source="metadata", channels=320, context=1024, encoder=True):
    family = Family(name, f"ColorizeDiffusion {name}", "v", source, channels, context, 64)
    return SimpleNamespace(
        family=family, file_name="mult.safetensors", background_encoder=object() if encoder else None
    )


def encoded(width=1024, background=None, regions=(), count=1):
    return SimpleNamespace(
        width=width, background_tokens=background, regions=regions, tokens=torch.zeros(count, 2, width)
    )


def found(level, text, **inputs):
    """Whether a finding of this level holds this text; every finding but a fine one names a fix."""
    findings = examine(Inputs(**inputs))
    return any(finding.level == level and text in finding.text for finding in findings)


# -- nothing wrong -----------------------------------------------------------------------------------------------------


def test_a_good_graph_is_well():
    model = SimpleNamespace(context_dim=1024)
    inputs = Inputs(
        sketch=drawing(), reference=colourful(), figure_mask=centre(), reference_figure_mask=centre(), mode="fig2fig",
        model=model, colorizer=colorizer("v1.5"), encoded=encoded(background=torch.zeros(1, 1, 1024)),
    )  # fmt: skip
    findings = examine(inputs)
    assert {finding.level for finding in findings} == {"fine"}, report(findings)
    assert report(findings).startswith("Preflight: all is well.\n1. FINE")


def test_nothing_connected():
    assert "1. NOTE (sketch): Nothing is connected. Fix: Connect a sketch" in report(examine(Inputs()))


def test_the_worst_comes_first():
    findings = examine(Inputs(sketch=torch.zeros(1, 40, 40, 3), reference=colourful(300, 900), width=500))
    levels = [LEVELS.index(finding.level) for finding in findings]
    assert levels == sorted(levels) and report(findings).startswith("Preflight: 2 problems, 1 warning, 1 note.")


# -- measures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0, 17, 45, 70, 90])
def test_line_width_in_every_direction(angle):
    radians = torch.tensor(angle / 180 * torch.pi)
    rows, columns = torch.meshgrid(torch.arange(400.0), torch.arange(400.0), indexing="ij")
    across = (columns - 200) * torch.cos(radians) + (rows - 200) * torch.sin(radians)
    lines = ((across % 40) < 4).float()[None, None]
    assert 2.9 < line_width(lines) < 5.2


def test_line_width_of_a_reduced_drawing():
    (lines,) = measure_lines(drawing(2048, 2048, line=8))
    assert 8 < lines.width < 11  # 4/pi too wide, because its lines have two directions only
    assert measure_lines(torch.ones(1, 9, 9, 3))[0].width == 0


# -- sketches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "level", "text"),
    [
        (torch.zeros(1, 512, 512, 3), "problem", "one flat tone: there are no lines. Without MASK"),
        (torch.rand(1, 512, 512, 3), "warning", "is coloured"),
        (torch.rand(1, 512, 512, 1) * 0.6 + 0.2, "warning", "has grey shades"),
        (drawing(paper=0.85), "warning", "The paper of the sketch is"),
        (drawing(ink=0.75), "warning", "The darkest lines of the sketch have"),
        (drawing(line=1, height=1024, width=1024), "warning", "1.3 pixels wide, 0.6 at the sampled size"),
        (drawing(line=14), "warning", "pixels wide"),
        (drawing(200, 200), "note", "has only 200x200 pixels and is enlarged 2.6 times"),
        (drawing(300, 1500), "note", "fills 20% of 512x512"),
        (torch.full((1, 9, 9, 3), NAN), "problem", "243 of 243 values that are NaN"),
        (torch.rand(9, 9, 3), "problem", "expected a picture batch"),
        (1 - drawing(), "fine", "light lines on dark paper"),
    ],
)
def test_findings_on_sketches(image, level, text):
    assert found(level, text, sketch=image)


def test_half_light_pictures_are_unsure():
    image = torch.ones(1, 512, 512, 3)
    image[:, :, :250] = 0
    assert found("warning", "paper and lines cannot be told apart", sketch=image)


def test_transparent_layers():
    lines = (drawing()[..., 0] < 0.5).float()
    assert found("fine", "a transparent line layer", sketch=torch.zeros(1, 512, 512, 3), sketch_mask=1 - lines)


def test_sizes():
    assert found("problem", "500x512 is not divisible by 64", sketch=drawing(), width=500)
    assert found("warning", "far above", sketch=drawing(), width=1024, height=1024, colorizer=colorizer())
    assert found("warning", "far below", sketch=drawing(), width=128, height=128, colorizer=colorizer())
    small = colorizer(channels=64)
    assert found("warning", "far above", sketch=drawing(), colorizer=small)
    assert not found("warning", "far above", sketch=drawing(), width=256, height=256, colorizer=small)
    passes = {"width": 256, "height": 256, "colorizer": small}
    assert found("warning", "The second pass samples 1024x1024 at once", second_pass=(1024, 1024), **passes)
    assert not found("warning", "second pass", second_pass=(512, 512), **passes)


def test_tiles_are_measured_instead_of_the_picture():
    """A tile larger than the model knows is told, the picture around it is not; without tiles it is."""
    given = {"sketch": drawing(), "width": 1024, "height": 768, "colorizer": colorizer("v1", channels=64)}
    assert found("warning", "1024x768 is far above the size", **given)
    assert found("warning", "sampled in tiles of 512x512, above its own size (256", tile=(512, 512), **given)
    assert found("note", "tiles of 256x256 of 1024x768: each knows its own part", tile=(256, 256), **given)
    assert not found("warning", "far above the size", tile=(256, 256), **given)
    assert found("warning", "1024x768 is far above the size", tile=(2048, 2048), **given)  # one tile holds all of it
    given |= {"width": 256, "height": 256, "second_pass": (1024, 1024)}  # the tiles are the second pass's
    assert found("warning", "sampled in tiles of 768x512, above its own size", tile=(768, 512), **given)
    assert not found("warning", "The second pass samples", tile=(768, 512), **given)


@pytest.mark.parametrize("tone", ["hatching", "dots"])
def test_hatching_and_screentone(tone):
    """A quarter of the drawing in strokes or dots of 5 pixels; lines alone, thick or thin, are no tone."""
    down, across = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    dots = (across % 5 - 2) ** 2 + (down % 5 - 2) ** 2 <= 2
    marks = dots if tone == "dots" else (across + down) % 5 < 2
    marks &= (down > 256) & (across > 256)
    toned = drawing()
    toned[0][marks] = 0
    assert found("warning", "is hatching or screentone", sketch=toned)
    for line in (1, 3, 6):
        assert not found("warning", "hatching", sketch=drawing(line=line))


# -- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "level", "text"),
    [
        (drawing(), "problem", "looks like a line drawing"),
        (torch.full((1, 300, 300, 3), 0.4), "problem", "one flat colour"),
        (torch.rand(1, 300, 300, 1), "warning", "hardly any colour"),
        (colourful(300, 300) * 0.15, "warning", "is dark"),
        (colourful(300, 900), "warning", "900x300; the encoder squashes it"),
        (colourful(300, 500), "note", "500x300; the encoder squashes it"),
        (colourful(100, 100), "note", "100x100, smaller than the 224 pixels"),
        (torch.full((1, 4, 4, 3), NAN), "problem", "NaN"),
        (torch.rand(1, 4, 4, 2), "problem", "expected a picture batch"),
    ],
)
def test_findings_on_references(image, level, text):
    assert found(level, text, reference=image)


def test_blank_margins_of_a_reference_are_told_and_trimmed():
    small = torch.ones(1, 600, 600, 3)
    small[:, 100:500, 280:330] = colourful(400, 50)
    assert found("note", "50% of the reference is blank margin", reference=small)
    trimmed = SimpleNamespace(**vars(encoded()), fit="trim", image_size=448)
    assert found("note", "reference is 424x424, smaller than the 448 pixels", reference=small, encoded=trimmed)
    assert not found("note", "blank margin", reference=small, encoded=trimmed)
    assert not found("note", "blank margin", reference=colourful())


def test_what_the_encoder_did_counts():
    """A padded reference is not squashed, and a small encoder is content with a small picture."""
    reference = SimpleNamespace(**vars(encoded()), fit="pad", image_size=56)
    findings = examine(Inputs(reference=colourful(100, 300), encoded=reference))
    assert [finding.level for finding in findings] == ["fine"]


def test_transparent_references():
    assert found("note", "25% of the reference is transparent", reference=colourful(), reference_mask=centre())


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (torch.zeros(1, 64, 64), "figure_mask is empty"),
        (torch.ones(1, 512, 512), "figure_mask covers everything"),
        (1 - centre(), "looks inverted"),
        (centre(512, 200), "figure_mask is 200x512, its picture 512x512"),
        (centre(value=NAN), "NaN or infinite"),
        (torch.rand(2), "expected masks"),
    ],
)
def test_findings_on_masks(mask, text):
    findings = examine(Inputs(sketch=drawing(), figure_mask=mask, mode="masked vanilla"))
    (match,) = [finding for finding in findings if text in finding.text]
    assert match.level in ("problem", "warning") and match.subject == "masks"


def test_values_below_the_threshold():
    findings = examine(Inputs(figure_mask=centre(value=0.03), mode="masked vanilla"))
    assert findings[0].fix == "Lower mask_threshold." and "largest value 0.03" in findings[0].text


def test_masks_and_modes():
    assert found("problem", "needs the figure of the drawing", sketch=drawing(), mode="fig2fig")
    assert found("note", "vanilla does not use them", sketch=drawing(), figure_mask=centre())
    regions = encoded(regions=("one",))
    assert not found("problem", "needs the figure", sketch=drawing(), mode="masked vanilla", encoded=regions)


def test_masks_that_disagree():
    tiny = torch.zeros(1, 512, 512)
    tiny[:, 200:260, 200:260] = 1
    pair = dict(figure_mask=tiny, reference_figure_mask=centre(), mode="masked vanilla")
    assert found("warning", "fills 1% of the drawing and 25% of the reference", **pair)
    half = torch.ones(1, 512, 512, 3)
    half[:, :, 10:200:20] = 0
    beside = torch.zeros(1, 512, 512)
    beside[:, :, 300:500] = 1
    assert found("warning", "Only 0% of the drawing's lines", sketch=half, figure_mask=beside, mode="masked vanilla")


# -- model -------------------------------------------------------------------------------------------------------------


def test_models_and_encoders():
    assert found("problem", "not a ColorizeDiffusion model", model=SimpleNamespace(), is_ours=False)
    assert found("note", "v prediction (default)", colorizer=colorizer(source="default"))
    assert found("problem", "tokens of width 768", colorizer=colorizer(), encoded=encoded(768))
    model = SimpleNamespace(context_dim=768)
    assert found("problem", "reads tokens of width 768", colorizer=colorizer(), model=model)


@pytest.mark.parametrize(
    ("mode", "name", "values", "text"),
    [
        ("fig2fig", "v1", {}, "needs the region weights"),
        ("bg2fig", "v1", {}, "needs the region weights"),
        ("fig2fig", "v1.5", {}, "needs to know the reference's background"),
        ("bg2fig", "v2", {}, "mult.safetensors is ColorizeDiffusion v2, whose weights know no bg2fig"),
        ("fig2fig", "v2", {}, "needs to know the reference's background"),
        ("vanilla", "v1.5", {"regions": ("a",)}, "has 1 added region "),
    ],
)
def test_modes(mode, name, values, text):
    assert found("problem", text, mode=mode, colorizer=colorizer(name), encoded=encoded(**values))


def test_v2_needs_no_recovery_transformer():
    reference = encoded(background=torch.zeros(1, 1, 1024))
    inputs = dict(mode="fig2fig", colorizer=colorizer("v2", encoder=False), encoded=reference)
    assert not found("problem", "recovery transformer", **inputs)


def test_missing_recovery_transformer():
    reference = encoded(background=torch.zeros(1, 1, 1024))
    assert found(
        "problem", "no recovery transformer", mode="fig2fig", colorizer=colorizer("v1.5", encoder=False),
        encoded=reference,
    )  # fmt: skip


def test_counts():
    three = drawing().expand(3, -1, -1, -1)
    assert found("problem", "3 sketches and 2 references", sketch=three, encoded=encoded(count=2))
    assert not found("problem", "There are", sketch=three, encoded=encoded())


# -- anything ----------------------------------------------------------------------------------------------------------


def test_nothing_makes_it_fail():
    """Odd sizes, channels, batches and values: always a report in which every finding has text, and a picture."""
    pictures = [torch.rand(1, 1, 1, 1), torch.rand(2, 1, 70, 3), torch.rand(1, 90, 2, 4), torch.full((1, 5, 5, 3), NAN)]
    masks = [None, torch.rand(1, 3, 3), torch.zeros(1, 64, 64), torch.full((1, 2, 2), NAN)]
    for picture, mask, mode in itertools.product(pictures, masks, ("vanilla", "fig2fig")):
        inputs = Inputs(sketch=picture, reference=picture, figure_mask=mask, reference_figure_mask=mask, mode=mode)
        findings = examine(inputs)
        assert all(finding.text and finding.level in LEVELS for finding in findings)
        sheet = preview(inputs, findings)
        assert sheet.shape[0] == 1 and sheet.shape[2:] == (896, 3) and torch.isfinite(sheet).all()


def test_the_preview_shows_margins_lines_and_figure():
    inputs = Inputs(sketch=drawing(512, 1024), figure_mask=centre(512, 1024), width=512, height=512)
    sheet = preview(inputs, examine(inputs))[0]
    assert torch.allclose(sheet[5, 200], torch.full((3,), 0.35), atol=0.01)  # margin
    tinted = sheet[224, 224]
    assert tinted[0] > tinted[2] + 0.2  # figure, orange
    assert sheet[460:, :, 0].max() > 0.5  # text


# -- the node ----------------------------------------------------------------------------------------------------------


def test_the_node(pack):
    text, picture, problems = pack.run("ColorizePreflight", width=512, height=512, mode="vanilla", sketch=drawing())
    assert text.startswith("Preflight: all is well.") and problems == 0 and picture.shape[-1] == 3
    text, _, problems = pack.run(
        "ColorizePreflight", width=512, height=512, mode="fig2fig", sketch=drawing(), model=SimpleNamespace(model=3)
    )
    assert problems == 2 and "The model is int, not a ColorizeDiffusion model." in text
