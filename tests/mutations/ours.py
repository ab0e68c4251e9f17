"""Mutations of what is ours beside the papers: training in little memory, students as adapters, painted figures."""

from .mutation import STAGES, Mutation

LEAN = "tests/trainer/models/test_lean_layers.py"
FUSED = "tests/trainer/run/test_fused.py"
TAUGHT = f"{STAGES}/test_distill.py -k stays_as_it_was"

MUTATIONS = (
    Mutation(
        "distill: the teacher keeps the student's adapters",
        "trainer/stages/distill.py",
        "with as_teacher():",
        "with contextlib.nullcontext():",
        TAUGHT,
    ),
    Mutation(
        "distill: a teacher without guidance",
        "trainer/stages/distill.py",
        "if scale == 1:",
        "if scale:",
        f"{STAGES}/test_distill.py -k guidance_and_reference",
    ),
    Mutation(
        "8 bits: one scale for all outputs",
        "trainer/models/lean_layers.py",
        "scale = rows.abs().amax(1, keepdim=True) / MOST",
        "scale = rows.abs().amax().expand(len(rows), 1) / MOST",
        f"{LEAN} -k rounding",
    ),
    Mutation(
        "8 bits: the gradient of a convolution without its groups",
        "trainer/models/lean_layers.py",
        "self.stride, padding, self.dilation, self.groups)",
        "self.stride, padding, self.dilation)",
        f"{LEAN} -k whole_one_with",
    ),
    Mutation(
        "at rest: a weight stays on the device for the backward pass",
        "trainer/models/lean_layers.py",
        "ctx.layer, ctx.shape = layer, x.shape",
        "ctx.layer, ctx.shape, ctx.kept = layer, x.shape, layer.fetched(x.dtype)",
        f"{LEAN} -k visits_one_by_one",
    ),
    Mutation(
        "fused: every parameter steps with the first group's settings",
        "trainer/run/fused.py",
        "self.optimizer.param_groups = [groups[number] |",
        "self.optimizer.param_groups = [groups[0] |",
        f"{FUSED} -k every_group",
    ),
    Mutation(
        "fused: a gradient stays after its step",
        "trainer/run/fused.py",
        "        parameter.grad = None\n",
        "",
        f"{FUSED} -k fewer_gradients",
    ),
    Mutation(
        "art: a mirrored figure's second colour on the other side",
        "trainer/art/painted.py",
        "1 - across if self.mirrored else across",
        "across",
        "tests/trainer/art/test_art.py -k two_colours",
    ),
)
