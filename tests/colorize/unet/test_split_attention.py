"""Split attention against a literal transcription, and what must hold whatever the masks are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from colorize.unet.config import UNetConfig, unet_config_from_state_dict
from colorize.unet.kept import keep
from colorize.unet.layers import Attention
from colorize.unet.split_attention import Split, SplitOptions, composition, shares, split_attention, to_latent_size
from colorize.unet.unet import UNet

HEIGHT, WIDTH, CHANNELS, TOKENS, CONTEXT = 6, 10, 32, 7, 24


def layer(seed: int = 0, ranks=(4, 0.5)) -> Attention:
    torch.manual_seed(seed)
    out = Attention(CHANNELS, CONTEXT, 16, ranks)
    for parameter in out.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return out.eval().requires_grad_(False)


def literal(layer: Attention, x, tokens, masks, options: SplitOptions, thresholds=None):
    """Every region for every query, then the composition query by query, with loops (paper Eq. 2, N figures)."""
    results = []
    for kind, strength, context in zip(options.kinds, options.strengths, tokens, strict=True):
        projected = []
        for name, values in (("to_q", x), ("to_k", context), ("to_v", context)):
            linear = getattr(layer, name)
            weight = linear.weight
            if kind is not None:
                up, down = (getattr(linear, f"lora_{way}_{kind}").weight for way in ("up", "down"))
                weight = weight + up @ down
            projected.append(values @ weight.T)
        q, k, v = (p.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for p in projected)
        attention = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        results.append((attention @ v).transpose(1, 2).flatten(2) * strength)
    out = torch.zeros_like(results[0])
    for row in range(len(x)):
        for y in range(HEIGHT):
            for column in range(WIDTH):
                place = y * WIDTH + column
                background, value = results[-1][row, place], results[-1][row, place]
                for figure in range(masks.shape[1]):  # bottom to top
                    level = masks[row, figure, y, column]
                    answer = results[figure][row, place] * (1 - options.merge) + background * options.merge
                    threshold = options.threshold if thresholds is None else thresholds[row]
                    if options.soft:
                        share = level.clamp(0, 1)
                    else:
                        share = float(level >= threshold if options.ties_to_figure else level > threshold)
                    value = share * answer + (1 - share) * value
                out[row, place] = value
    return out


def inputs(batch: int, figures: int, seed: int = 1):
    torch.manual_seed(seed)
    x = torch.randn(batch, HEIGHT * WIDTH, CHANNELS)
    tokens = [torch.randn(batch, TOKENS + extra, CONTEXT) for extra in range(figures + 1)]
    return x, tokens, torch.rand(batch, figures, HEIGHT, WIDTH)


def run(layer: Attention, x, tokens, masks, options, threshold=None):
    split = Split(tokens, masks, options, threshold)
    return split_attention(layer, x, split, (HEIGHT, WIDTH), layer._attend)


@pytest.mark.parametrize("figures", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3])  # three rows with different masks
@pytest.mark.parametrize(
    "change",
    [{}, {"merge": 0.3}, {"soft": True}, {"soft": True, "merge": 0.6}, {"merge": 1.0}, {"threshold": 0.7}],
    ids=str,
)
def test_equals_the_literal_composition(figures, batch, change):
    attention = layer()
    x, tokens, masks = inputs(batch, figures)
    kinds = ("fg",) * (figures - 1) + (None, "bg")
    options = SplitOptions(kinds, tuple(0.5 + 0.2 * n for n in range(figures + 1)), **{"threshold": 0.4, **change})
    torch.testing.assert_close(
        run(attention, x, tokens, masks, options), literal(attention, x, tokens, masks, options), atol=1e-5, rtol=1e-5
    )


def test_a_threshold_of_its_own_for_every_row():
    attention = layer()
    x, tokens, masks = inputs(3, 1)
    options, thresholds = SplitOptions(("fg", "bg"), (1.0, 1.0)), torch.tensor([0.2, 0.5, 0.9])
    expected = literal(attention, x, tokens, masks, options, thresholds)
    torch.testing.assert_close(run(attention, x, tokens, masks, options, thresholds), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("value, region", [(1.0, 0), (0.0, 1)])
@pytest.mark.parametrize("soft", [False, True])
def test_full_and_empty_masks_leave_one_region(value, region, soft):
    attention = layer()
    x, tokens, masks = inputs(2, 1)
    options = SplitOptions(("fg", "bg"), (1.0, 1.0), soft=soft)
    split = run(attention, x, tokens, torch.full_like(masks, value), options)
    alone = SplitOptions((options.kinds[region],) * 2, (1.0, 1.0))
    only = run(attention, x, [tokens[region]] * 2, torch.ones_like(masks), alone)
    assert torch.equal(split, only)


def test_one_kind_and_the_same_tokens_are_plain_attention():
    attention = layer()
    x, tokens, masks = inputs(2, 2)
    split = run(attention, x, [tokens[0]] * 3, masks, SplitOptions((None,) * 3, (1.0,) * 3, threshold=0.5))
    plain = attention._attend(attention.to_q(x), attention.to_k(tokens[0]), attention.to_v(tokens[0]))
    torch.testing.assert_close(split, plain, atol=1e-6, rtol=1e-5)


def test_each_query_is_computed_once():
    """The released way asks every query of every region; ours asks each once when edges are hard."""
    attention = layer()
    x, tokens, masks = inputs(1, 3)
    options = SplitOptions(("fg",) * 3 + ("bg",), (1.0,) * 4, threshold=0.5)
    asked = []

    def attend(q, k, v):
        asked.append(q.shape[1])
        return attention._attend(q, k, v)

    split_attention(attention, x, Split(tokens, masks, options), (HEIGHT, WIDTH), attend)
    assert sum(asked) == HEIGHT * WIDTH
    projected = []
    attention.to_q.register_forward_hook(lambda module, given, out: projected.append(len(given[0])))
    split_attention(attention, x, Split(tokens, masks, options), (HEIGHT, WIDTH), attention._attend)
    assert sum(projected) == HEIGHT * WIDTH


def test_regions_without_queries_cost_nothing():
    _, tokens, masks = inputs(1, 3)
    masks[:, 1] = 0
    split = Split(tokens, masks, SplitOptions(("fg",) * 3 + ("bg",), (1.0, 1.0, 1.0, 0.0), threshold=0.5))
    plan = split.plan(HEIGHT, WIDTH)
    assert [share is None for share in plan] == [False, True, False, True]


def test_a_plan_is_made_once_per_size():
    x, tokens, masks = inputs(1, 1)
    split = Split(tokens, masks, SplitOptions(("fg", "bg"), (1.0, 1.0)))
    assert split.plan(3, 5) is split.plan(3, 5)
    assert split.plan(3, 5) is not split.plan(6, 10)


def test_composition_is_a_partition():
    masks = torch.rand(2, 3, 4, 5)
    for soft in (False, True):
        weights = composition(masks, SplitOptions(("fg",) * 3 + ("bg",), (1.0,) * 4, threshold=0.5, soft=soft))
        assert weights.shape == (2, 4, 20)
        torch.testing.assert_close(weights.sum(1), torch.ones(2, 20))


@pytest.mark.parametrize("own", [None, torch.tensor([0.5, 0.25])], ids=["one threshold", "one for every row"])
def test_a_mask_at_its_threshold_is_background(own):
    """v1.5 paper, Eq. 2: figure where m_s > ts_s, background where m_s <= ts_s. Released v1 code: the figure's."""
    levels = torch.tensor([0.5, 0.5 if own is None else 0.25])
    masks = levels.view(2, 1, 1, 1).expand(2, 1, 2, 3)
    for ties, figure in ((False, 0.0), (True, 1.0)):
        options = SplitOptions((None, None), (1.0, 1.0), threshold=0.5, ties_to_figure=ties)
        weights = composition(masks, options, own)
        assert (weights[:, 0] == figure).all() and (weights[:, 1] == 1 - figure).all()


def test_later_figures_lie_on_top():
    masks = torch.ones(1, 2, 1, 1)
    weights = composition(masks, SplitOptions(("fg", "fg", "bg"), (1.0,) * 3))
    assert weights.flatten().tolist() == [0.0, 1.0, 0.0]


def test_rows_of_different_counts_are_padded_with_weight_zero():
    weights = torch.tensor([[[1.0, 0, 0, 0]], [[0, 1.0, 1.0, 0]]])
    (share,) = shares(weights)
    assert share.index.tolist() == [0, 1, 5, 6]
    assert share.weight[..., 0].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("size", [(8, 12), (64, 96), (100, 40), (1, 1), (1000, 3)])
def test_masks_of_any_size_become_latent_masks(size):
    masks = torch.ones(2, 3, *size)
    latent = to_latent_size(masks, 8, 12)
    assert latent.shape == (2, 3, 8, 12)
    torch.testing.assert_close(latent, torch.ones_like(latent))


def test_full_size_masks_are_reduced_as_released():
    masks = torch.rand(1, 1, 64, 96)
    expected = F.interpolate(masks, scale_factor=0.125, mode="bicubic", align_corners=False)
    assert torch.equal(to_latent_size(masks, 8, 12), expected)


def test_wrong_counts_are_refused():
    _, tokens, masks = inputs(1, 2)
    with pytest.raises(ValueError, match="do not belong together"):
        Split(tokens[:2], masks, SplitOptions(("fg", "fg", "bg"), (1.0,) * 3))
    with pytest.raises(ValueError, match="one of each per region"):
        SplitOptions(("fg", "bg"), (1.0,))


CONFIG = UNetConfig(model_channels=64, channel_mult=(1, 1, 1, 2), num_head_channels=32, context_dim=CONTEXT)


def unet(**changes) -> UNet:
    torch.manual_seed(0)
    out = UNet(UNetConfig(**{**vars(CONFIG), **changes}))
    for parameter in out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return out.eval()


def test_a_whole_unet_at_any_aspect_ratio():
    network = unet(region_ranks=(4, 0.5)).requires_grad_(False)
    tokens = [torch.randn(1, TOKENS, CONTEXT) for _ in range(2)]
    options = SplitOptions((None, None), (1.0, 1.0), threshold=0.5)
    for size in ((8, 24), (16, 8)):
        x = torch.randn(1, 4, *size)
        split = Split([tokens[0]] * 2, torch.rand(1, 1, *size), options)
        plain = network(x, torch.tensor([500.0]), tokens[0])
        torch.testing.assert_close(
            network(x, torch.tensor([500.0]), None, split=split), plain, atol=1e-4 * plain.abs().max().item(), rtol=0
        )


def test_checkpointing_gives_the_same_gradients():
    network = unet(region_ranks=(4, 0.5))
    x, tokens = torch.randn(1, 4, 8, 8), [torch.randn(1, TOKENS, CONTEXT) for _ in range(2)]
    masks, options = torch.rand(1, 1, 8, 8), SplitOptions(("fg", "bg"), (1.0, 1.0), threshold=0.5)
    gradients = []
    for on in (False, True):
        network.gradient_checkpointing = on
        network.zero_grad()
        strengths = [0.5 + 0.03 * n for n in range(16)]
        out = network(x, torch.tensor([3.0]), None, split=Split(tokens, masks, options), strengths=strengths)
        out.square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_new_region_weights_change_nothing_until_trained():
    torch.manual_seed(0)
    plain = Attention(CHANNELS, CONTEXT, 16)
    torch.manual_seed(0)
    fresh = Attention(CHANNELS, CONTEXT, 16, (4, 0.5))
    fresh.load_state_dict(plain.state_dict(), strict=False)
    x, tokens, masks = inputs(1, 1)
    split = Split(tokens, masks, SplitOptions(("fg", "bg"), (1.0, 1.0), threshold=0.5))
    without = Split(tokens, masks, SplitOptions((None, None), (1.0, 1.0), threshold=0.5))
    size = (HEIGHT, WIDTH)
    assert torch.equal(fresh.forward_split(x, split, size), plain.forward_split(x, without, size))


@pytest.mark.parametrize("ranks", [(4, 0.5), (0.25, 3), (0.125, 0.25)])
def test_ranks_come_back_from_the_tensors(ranks):
    network = UNet(UNetConfig(**{**vars(CONFIG), "channel_mult": (1, 2, 2, 2), "region_ranks": ranks}))
    found = unet_config_from_state_dict(network.state_dict(), "", 32)
    assert found == network.config


def test_mixed_ranks_are_refused():
    network = UNet(UNetConfig(**{**vars(CONFIG), "channel_mult": (1, 2, 2, 2), "region_ranks": (4, 0.5)}))
    weights = network.state_dict()
    key = "middle_block.1.transformer_blocks.0.attn2.to_k.lora_down_fg.weight"
    weights[key] = weights[key][:3]
    with pytest.raises(ValueError, match="mixes models"):
        unet_config_from_state_dict(weights, "", 32)


@pytest.mark.parametrize("change", [{}, {"soft": True, "merge": 0.4}, {"merge": 0.3}], ids=str)
@pytest.mark.parametrize("figures", [1, 4])
def test_what_is_kept_of_a_layer_is_what_it_computes(figures, change):
    attention = layer()
    x, tokens, masks = inputs(2, figures)
    options = SplitOptions(("fg",) * figures + ("bg",), (1.0,) * figures + (0.8,), threshold=0.5, **change)
    split = Split(tokens, masks, options)
    plain = split_attention(attention, x, split, (HEIGHT, WIDTH), attention._attend)
    for width in (0, CHANNELS):  # without the query projections, and with them
        kept = keep(attention, tokens, options.kinds, width)
        assert set(kept.queries) == ({"fg", "bg"} if width else set())
        answer = split_attention(attention, x, split, (HEIGHT, WIDTH), attention._attend, kept=kept)
        torch.testing.assert_close(answer, plain, atol=2e-5, rtol=2e-5)


def test_queries_are_divided_where_each_has_one_region():
    _, tokens, masks = inputs(2, 2)
    hard = SplitOptions(("fg", "fg", "bg"), (1.0,) * 3, threshold=0.5)
    parted = Split(tokens, masks, hard).parting(HEIGHT, WIDTH)
    assert parted.back.tolist() != parted.order.tolist()  # rows of different counts: some places are padding
    assert parted.order[parted.back].tolist() == list(range(2 * HEIGHT * WIDTH))
    off = SplitOptions(("fg", "fg", "bg"), (1.0, 1.0, 0.0), threshold=0.5)
    for options in (off, SplitOptions(("fg", "fg", "bg"), (1.0,) * 3, merge=0.5)):
        assert Split(tokens, masks, options).parting(HEIGHT, WIDTH) is None
    assert Split(tokens[1:], masks[:, 1:] * 0, SplitOptions(("fg", "bg"), (1.0, 1.0))).parting(3, 5) is None
