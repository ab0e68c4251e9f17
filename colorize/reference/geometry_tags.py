"""Geometry tags: what a picture's drawing says rather than its colours, taken from the sketch instead of the reference.

A tagger reads pose, hands, expression, body and framing off a reference as well as its colours; the sketch already
decides the former. The released code therefore replaces the logits of such tags by the sketch's ("geometry update").
Its list of tags is hand made; which tags count here follows from their words. The released update reaches no published
model, because those read the tagger's features and not its logits; `geometry_features` carries it over to features.

Shape legend: B batch, L tokens of a picture, K tags, G geometry tags, W width of a feature.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

NEGATIVE_LOGIT = -22.0  # of a tag that is switched off: its probability is 0 (released code)

COLOURS = frozenset(
    "aqua beige black blonde blue brown colored colorful color cyan gold golden gradient green grey gray lavender "
    "monochrome multicolored orange pink platinum purple rainbow red sepia silver streaked tan teal "
    "two-tone violet white yellow".split()
)
"""A tag with one of these words speaks of colour, whatever else it names."""

WORDS = frozenset(
    # how many there are, and how they are framed
    "solo group couple duo trio crowd focus view views viewer portrait profile body shot close-up closeup pov angle "
    "perspective foreshortening upside-down behind above below side frame "
    # posture and movement
    "sitting standing lying kneeling squatting straddling walking running jumping flying falling floating dancing "
    "fighting sleeping leaning bent stretching reclining swimming riding climbing crawling crouching spread fetal "
    "wariza seiza pose stance fours balancing piggyback carrying carry hug hugging kiss kissing back stomach stepping "
    "kicking punching throwing bowing contrapposto arched facing turning looking eye-contact support outstretched "
    "crossed together own another's "
    # expression
    "smile smiling grin smirk smug frown pout expression expressionless blush embarrassed angry annoyed happy sad "
    "scared surprised serious shy sleepy nervous bored worried drunk evil crying tears screaming shouting laughing "
    "yawning sigh clenched parted mouth lips teeth fang fangs tongue eyebrows eyebrow closed wink winking half-closed "
    "rolling constricted wide-eyed jitome tsurime tareme sanpakugan licking biting eating drinking sweatdrop ahegao "
    # hands, arms, legs
    "hand hands finger fingers fingernails thumb thumbs palm fist fists pointing salute waving wave peace gesture "
    "clap clapping reaching grab grabbing groping touching adjusting pulling lift lifted pull raised claw shushing "
    "arm arms elbow elbows wrist wrists armpit armpits shoulder shoulders leg legs knee knees thigh thighs foot feet "
    "toe toes barefoot soles ankle heel tiptoes zettai "
    # the body and its outline
    "breast breasts cleavage sideboob underboob chest pectorals navel midriff stomach groin ass butt hip hips waist "
    "collarbone neck nape abs muscular muscle curvy plump chibi loli shota tall petite nude naked topless bottomless "
    "pregnant ribs back backless crotch cameltoe nipples pussy penis testicles anus spine "
    # the head
    "head tilt face facial nose ear ears horns antlers tail wings halo ahoge bangs ponytail twintails pigtails braid "
    "braids bun drill sidelocks forehead cowlick bob hime undercut mohawk afro spiked messy curly wavy straight "
    # what is held, and cloth that shows a pose
    "holding wielding aiming lifting playing reading writing cooking undressing dressing".split()
)
"""A tag with one of these words, and without a colour, is a geometry tag."""

COUNTS = re.compile(r"^(\d\+?|multiple_|no_)(girl|boy|other|human)s?$")
LENGTHS = re.compile(r"^(very_|absurdly_)?(long|short|medium)_hair$")
FACE_LETTERS = 2  # at most, in :d, ;o, >_<, ^_^, @_@, o_o
BUT = frozenset("?? ! !! ? ... +++".split())  # signs drawn into a picture


def is_geometry(name: str) -> bool:
    """Whether a general tag, with underscores as in selected_tags.csv, counts as geometry."""
    name = name.lower()
    if COUNTS.match(name) or LENGTHS.match(name):
        return True
    words = re.split(r"[_\s()/]+", name)
    words += [part for word in words for part in word.split("-")]
    if not COLOURS.isdisjoint(words):
        return False
    face = sum("a" <= letter <= "z" for letter in name) <= FACE_LETTERS
    return not WORDS.isdisjoint(words) or (face and name not in BUT)


def geometry_tags(names: Sequence[str], general: Sequence[bool] | None = None) -> list[int]:
    """Places of the geometry tags in a tagger's list. general: which tags are general; others never count."""
    return [i for i, name in enumerate(names) if (general is None or general[i]) and is_geometry(name)]


def geometry_update(
    logits: torch.Tensor,  # (B, L, K) of the reference's tokens
    sketch_logits: torch.Tensor,  # (B, 1, K) of the sketch as a whole, or (B, L, K)
    tags: Sequence[int],  # G
    scale: float = 1.0,
) -> torch.Tensor:
    """(B, L, K): the reference's logits, those of `tags` replaced by `scale` times the sketch's (released code)."""
    out, index = logits.clone(), torch.as_tensor(tags, device=logits.device)
    out[..., index] = scale * sketch_logits[..., index].expand(-1, logits.shape[1], -1).to(logits)
    return out


def above_threshold(logits: torch.Tensor, threshold: float) -> torch.Tensor:
    """Logits not above the threshold become NEGATIVE_LOGIT (an option of the released code, off there)."""
    return torch.where(logits > threshold, logits, torch.full_like(logits, NEGATIVE_LOGIT))


def geometry_features(
    tokens: torch.Tensor,  # (B, L, W) features of the reference
    sketch_tokens: torch.Tensor,  # (B, L', W) features of the sketch
    weight: torch.Tensor,  # (K, W) of the tagger's classifier
    tags: Sequence[int],  # G
    strength: float = 1.0,  # 0 (features as they are) .. 1
    ridge: float = 0.1,
) -> torch.Tensor:
    """Features (B, L, W) whose geometry logits are moved to the sketch's by as small a change as possible.

    With A = weight[tags], f a feature and s the mean feature of the sketch, d solves
        min |A (f + d) - A s|^2 + r |d|^2,  r = ridge * mean diagonal of A^T A
    and f + strength * d is the answer. Directions the geometry tags do not see stay the reference's. Ours: the
    released update changes logits, which published models do not read. Computed in float32.
    """
    rows = weight[torch.as_tensor(tags, device=weight.device)].float().to(tokens.device)
    gram = rows.T @ rows
    level = ridge * gram.diagonal().mean().clamp_min(1e-12)
    values, vectors = torch.linalg.eigh(gram)  # stable where the tags see only a few directions
    values = values.clamp_min(0)
    solved = (vectors * (values / (values + level))) @ vectors.T
    wanted = sketch_tokens.float().mean(dim=1, keepdim=True) - tokens.float()
    return (tokens.float() + strength * wanted @ solved.T).to(tokens.dtype)
