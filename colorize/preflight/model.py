"""Findings on checkpoint, encoder and mode: whether they belong together."""

from __future__ import annotations

from ..advice import encoder_advice, mode_advice
from ..families import Family
from ..modes import Given, Weights, refusal
from ..reference.types import Reference
from .finding import CheckpointFacts, Finding, Inputs


def model_findings(inputs: Inputs) -> list[Finding]:
    """Findings on checkpoint, encoder and mode: whether they belong together."""
    found = []
    colorizer, encoded = inputs.colorizer, inputs.encoded
    if inputs.model is not None and not inputs.is_ours:
        text = f"The model is {type(inputs.model).__name__}, not a ColorizeDiffusion model."
        fix = "Connect the model output of Load ColorizeDiffusion Checkpoint."
        found.append(Finding("problem", "model", text, fix))
    if colorizer is None:
        return found
    family = colorizer.family
    text = f"{colorizer.file_name} is {family.title}, {family.prediction_type} prediction ({family.prediction_source})."
    if family.prediction_source in ("default", "file name"):
        fix = "Leave it if the colours are right; if they are grey or burnt, set prediction_type of the loader by hand."
        found.append(Finding("note", "model", text, fix))
    else:
        found.append(Finding("fine", "model", text))
    if inputs.student is not None:
        guidance = inputs.student.guidance
        text = f"The model is a student, which colours in few steps; its answers contain guidance {guidance:g}."
        found.append(Finding("note", "model", text, f"In the sampler: {inputs.student.advice()}."))
    if inputs.model is not None and inputs.is_ours and inputs.model.context_dim != family.context_dim:
        text = f"The model reads tokens of width {inputs.model.context_dim}, the colorizer {family.context_dim}."
        fix = "Connect model and colorizer of the same Load ColorizeDiffusion Checkpoint."
        found.append(Finding("problem", "model", text, fix))
    if encoded is not None and encoded.width != family.reference_dim:
        text = f"The encoder answers tokens of width {encoded.width}; {family.title} here reads {family.reference_dim}."
        fix = f"Choose another encoder in Load Reference Encoder: {encoder_advice(family.reference_dim)}."
        found.append(Finding("problem", "model", text, fix))
    elif encoded is not None:
        found.append(Finding("fine", "model", f"The reference encoder fits: tokens of width {encoded.width}."))
    if encoded is not None and family.is_xl:
        found += _tagger_findings(encoded, family)
    return found + _mode_findings(inputs, colorizer)


def _tagger_findings(encoded: Reference, family: Family) -> list[Finding]:
    clip, features = family.second_tower == "clip", encoded.tagger_tokens
    if features is None or encoded.second_tower != family.second_tower:
        what = "a second CLIP's tokens" if clip else "a tagger's features"
        text = f"{family.title} also reads {what}; there are {'none' if features is None else 'others'}."
        fix = (
            "Connect a second Load Reference Encoder to second_encoder of Encode Reference."
            if clip
            else "Connect Load Tagger (WD v1.4 Swin V2, .safetensors) to tagger of Encode Reference."
        )
        return [Finding("problem", "model", text, fix)]
    network, width = "second encoder" if clip else "tagger", features.shape[2]
    if width != family.tagger_dim:
        text = f"The {network} answers features of width {width}; this model reads {family.tagger_dim}."
        own = "Choose the file that was the model's second tower in training."
        return [Finding("problem", "model", text, own if clip else "Choose WD v1.4 Swin V2 in Load Tagger.")]
    return [Finding("fine", "model", f"The {network} fits: features of width {width}.")]


def _mode_findings(inputs: Inputs, colorizer: CheckpointFacts) -> list[Finding]:
    encoded = inputs.encoded
    weights = Weights.of(colorizer.family, colorizer.file_name, colorizer.background_encoder is not None)
    known = encoded is None or encoded.background_tokens is not None
    given = Given(figure=True, background=known, added=len(getattr(encoded, "regions", ())))
    reason = refusal(inputs.mode, weights, given)
    return [] if reason is None else [Finding("problem", "model", reason.text, mode_advice(reason, weights))]
