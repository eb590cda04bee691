"""What media cost: the vendors' published examples, and bounds that hold whatever the size."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenworks.factory import MediaRules, media_rules
from tokenworks.factory.facts.media import Area, Fixed, Patches, Tiles

PROFILES = (
    "generic",
    "openai",
    "anthropic",
    "deepseek",
    "dashscope",
    "moonshot",
    "zhipu",
    "vllm",
    "sglang",
    "llama.cpp",
)
sides = st.integers(1, 65_535)


@pytest.mark.parametrize(
    ("rule", "size", "tokens"),
    [
        # OpenAI, "Images and vision": its own examples.
        (Tiles(base_tokens=85, tile_tokens=170), (1024, 1024), 765),
        (Tiles(base_tokens=85, tile_tokens=170), (2048, 4096), 1105),
        (Tiles(base_tokens=85, tile_tokens=170), (512, 512), 255),
        (Tiles(base_tokens=85, tile_tokens=170), (1, 65_535), 85 + 4 * 170),
        (Patches(patch_px=32, patches_max=1536), (1024, 1024), 1024),
        (Patches(patch_px=32, patches_max=1536), (1800, 2400), 1536),
        (Patches(patch_px=32, patches_max=1536, patch_tokens_milli=1620), (1024, 1024), 1659),
        # Qwen-VL: a token for 28 x 28.
        (Patches(patch_px=28, patches_max=16_384), (1024, 1024), 37 * 37),
        (Patches(patch_px=28, patches_max=16_384), (65_535, 65_535), 16_384),
        (Patches(patch_px=16, patches_max=4096, long_px=1024, row_tokens=1), (1024, 1024), 4096 + 64),
        (Area(pixels_per_token=750, tokens_max=1600), (1092, 1092), 1590),
        (Area(pixels_per_token=750, tokens_max=1600), (8000, 8000), 1600),
        (Fixed(image_tokens=256), (9, 9), 256),
    ],
)
def test_an_image_costs_what_its_vendor_says(rule, size, tokens):
    assert rule.tokens(*size) == tokens


def qwen(height, width, factor, fewest, most):
    """Qwen's own resizing (`smart_resize` of its processor): sides to whole patches, the area between two bounds."""
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if high * wide > most:
        beta = math.sqrt(height * width / most)
        high = max(factor, math.floor(height / beta / factor) * factor)
        wide = max(factor, math.floor(width / beta / factor) * factor)
    elif high * wide < fewest:
        beta = math.sqrt(fewest / (height * width))
        high = math.ceil(height * beta / factor) * factor
        wide = math.ceil(width * beta / factor) * factor
    return high * wide // factor**2


@settings(deadline=None)
@given(sides, sides, st.sampled_from([28, 32]), st.sampled_from([4, 64, 256]))
def test_patches_bound_what_the_processor_makes(width, height, factor, fewest):
    if max(width, height) > 200 * min(width, height):
        return  # it refuses these
    rule = Patches(patch_px=factor, patches_min=fewest, patches_max=16_384)
    made = qwen(height, width, factor, fewest * factor**2, 16_384 * factor**2)
    assert made <= rule.tokens(width, height)


@settings(deadline=None)
@given(sides, sides)
def test_the_generic_rules_bound_every_profile(width, height):
    generic = media_rules()
    for name in PROFILES:
        rules = media_rules(name)
        assert rules.image_tokens((width, height)) <= generic.image_tokens((width, height))
        assert 0 < rules.image_tokens((width, height)) <= rules.image_tokens(None)


def test_an_image_of_unknown_size_costs_the_declared_maximum():
    rules = MediaRules(image_max_tokens=1000, image_low_tokens=85, item_tokens=3)
    assert rules.image_tokens(None) == 1003
    assert rules.image_tokens((9999, 9999)) == 1003
    assert rules.image_tokens(None, low=True) == 88
    assert MediaRules().image_tokens(None, low=True) == MediaRules().image_tokens(None), (
        "not every engine has it"
    )


def test_a_model_of_its_own_kind_has_rules_of_its_own():
    assert media_rules("openai", "gpt-4o-mini-2024-07-18").image_tokens((1024, 1024)) == 2833 + 4 * 5667 + 16
    assert media_rules("openai", "gpt-4o").image_tokens((1024, 1024)) < 10_100
    assert media_rules("nobody") == media_rules()


def test_sound_video_and_files():
    rules = MediaRules(item_tokens=0)
    assert rules.audio_tokens(32_000 * 10, 32_000) == 500
    assert rules.audio_tokens(10_000) == 500
    assert rules.audio_tokens(None) == rules.audio_tokens(10**12) == rules.audio_max_tokens
    assert rules.video_tokens(None) == rules.video_tokens(10**6) == rules.video_max_tokens
    assert rules.video_tokens(2) == 2 * rules.image_max_tokens
    assert rules.file_tokens(1) == rules.file_page_tokens
    assert (
        rules.file_tokens(None) == rules.file_tokens(10**12) == rules.file_pages_max * rules.file_page_tokens
    )


def test_rules_are_data():
    with pytest.raises(ValueError, match="frozen"):
        MediaRules().image_max_tokens = 1
    with pytest.raises(ValueError, match="kind"):
        MediaRules.model_validate({"image": [{"kind": "magic"}]})
    assert MediaRules.model_validate(MediaRules().model_dump()) == MediaRules()
