"""The one rule of modes: which weights and tokens answer which query, and which modes a model refuses and why."""

import pytest

from colorize import modes
from colorize.advice import mode_advice
from colorize.families import Family
from colorize.modes import Given, Weights

ALL = Given(figure=True, background=True)


def weights(name: str, figure: bool = False, recovery: bool = True) -> Weights:
    family = Family(name, f"Family {name}", "v", "choice", 32, 48, 32, has_figure_weights=figure)
    return Weights.of(family, "file.safetensors", recovery and name == "v1.5")


@pytest.mark.parametrize(
    ("model", "runs"),
    [
        (weights("v1"), ("vanilla", "masked vanilla")),
        (weights("v1.5"), ("vanilla", "masked vanilla", "bg2fig", "fig2fig")),
        (weights("v1.5", recovery=False), ("vanilla", "masked vanilla", "bg2fig")),
        (weights("v2"), ("vanilla", "masked vanilla", "fig2fig")),
        (weights("xl"), ("vanilla", "masked vanilla")),
        (weights("xl-plugin"), ("vanilla", "masked vanilla")),
        (weights("xl-plugin", figure=True), ("vanilla", "masked vanilla", "bg2fig", "fig2fig")),
    ],
)
def test_what_a_model_runs(model, runs):
    assert tuple(name for name in modes.MODES if modes.refusal(name, model, ALL) is None) == runs


@pytest.mark.parametrize(
    ("mode", "model", "given", "lacks", "text"),
    [
        ("vanilla", weights("v1"), Given(added=2), "split", "2 added regions"),
        ("fig2fig", weights("v1"), ALL, "region weights", "file.safetensors is Family v1 without them"),
        ("bg2fig", weights("v2"), ALL, "bg2fig", "know no bg2fig"),
        ("masked vanilla", weights("v1"), Given(), "figure", "where the figure is"),
        ("fig2fig", weights("v1.5"), Given(figure=True), "background", "the reference's background"),
        ("fig2fig", weights("v1.5", recovery=False), ALL, "recovery", "no recovery transformer"),
    ],
)
def test_refusals(mode, model, given, lacks, text):
    """Every reason has a sentence, an advice, and modes that run instead."""
    reason = modes.refusal(mode, model, given)
    assert reason.lacks == lacks and text in reason.text and reason.text.endswith(".")
    assert mode_advice(reason, model).endswith(".")
    assert mode not in reason.instead
    assert all(modes.refusal(other, model, given) is None for other in reason.instead)


def test_an_added_figure_says_where_a_figure_is():
    assert modes.refusal("masked vanilla", weights("v1"), Given(added=1)) is None


def test_who_answers_with_which_weights():
    kinds = {name: modes.split_options(name, weights("v1.5"), (1.0, 0.5)).kinds for name in list(modes.MODES)[1:]}
    assert kinds == {
        "masked vanilla": (None, None, None),
        "bg2fig": ("fg", "fg", None),
        "fig2fig": ("fg", "fg", "bg"),
    }
    options = modes.split_options("fig2fig", weights("v1.5"), (0.5,), 2.0, merge=0.25)
    assert (options.strengths, options.threshold, options.merge) == ((0.5, 2.0), 0.05, 0.25)
    assert modes.with_plugin(options).kinds == ("bg", "bg") and modes.with_plugin(options).merge == 0.25
    with pytest.raises(ValueError, match="vanilla does not split"):
        modes.split_options("vanilla", weights("v1"))


def test_details_of_the_released_paths():
    """Ties belong to the figure in v1 alone; what resizing makes beyond 0..1 counts in XL's soft edges alone."""
    assert modes.split_options("masked vanilla", weights("v1")).ties_to_figure
    assert not modes.split_options("masked vanilla", weights("v1.5")).ties_to_figure
    for name, soft, beyond in (("xl", True, True), ("xl", False, False), ("v1.5", True, False)):
        options = modes.split_options("masked vanilla", weights(name), soft=soft, overshoot=True)
        assert options.overshoot is beyond


@pytest.mark.parametrize(
    ("mode", "name", "known", "source"),
    [
        ("masked vanilla", "v1", False, "reference"),
        ("masked vanilla", "v1.5", True, "background"),
        ("bg2fig", "v1.5", True, "reference"),
        ("fig2fig", "v1.5", True, "recovered"),
        ("fig2fig", "v2", True, "background"),
    ],
)
def test_what_the_background_reads(mode, name, known, source):
    assert modes.background_of(mode, weights(name), Given(figure=True, background=known)) == source


def test_unknown_modes():
    with pytest.raises(ValueError, match="mode is 'masked'; choose one of vanilla, masked vanilla, bg2fig, fig2fig"):
        modes.refusal("masked", weights("v1"), ALL)
