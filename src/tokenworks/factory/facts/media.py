"""What an image, a sound, a video or a file can cost as input, in tokens, by declared rules.

Rules are data of a vendor's profile. They are upper bounds: sides are rounded up, the most expensive of several rules counts, and an
item whose size can't be read costs the declared maximum.
"""

from functools import cache, lru_cache
from importlib import resources
from math import isqrt
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

GENERIC: Final = "generic"
TOKENS_MAX: Final = 10_000_000
_Tokens = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
_Positive = Annotated[int, Field(ge=1, le=TOKENS_MAX)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tiles(_Frozen):
    """A number of tokens per image and per tile (OpenAI, "Images and vision": an image is fitted into 2048 x 2048, then to a shortest
    side of 768, then cut into tiles of 512; 85 + 170 per tile for GPT-4o).
    """

    kind: Literal["tiles"] = "tiles"
    base_tokens: _Tokens
    tile_tokens: _Tokens
    tile_px: _Positive = 512
    long_px: _Positive = 2048
    short_px: _Positive = 768

    def tokens(self, width: int, height: int) -> int:
        width, height = _fit(width, height, self.long_px, max(width, height))
        width, height = _fit(width, height, self.short_px, min(width, height))
        return self.base_tokens + self.tile_tokens * _ceil(width, self.tile_px) * _ceil(height, self.tile_px)


class Patches(_Frozen):
    """A number of millitokens per patch of so many pixels; an image is scaled to between `patches_min` and `patches_max` patches.

    Qwen2-VL: 28 pixels, 4 to 16 384 (its preprocessor's `min_pixels` and `max_pixels`); Qwen3-VL: 32. Anthropic: 28, at most
    2576 pixels and 4784 patches ("Images and vision"). OpenAI's small models: 32, at most 1536, times 1.62 to 2.46. Pixtral:
    16, at most 1024 pixels, and one more token per row.
    """

    kind: Literal["patches"] = "patches"
    patch_px: _Positive
    patches_min: _Tokens = 0
    patches_max: _Positive
    long_px: _Positive = TOKENS_MAX
    patch_tokens_milli: _Positive = 1000
    row_tokens: _Tokens = 0

    def tokens(self, width: int, height: int) -> int:
        width, height = _fit(width, height, self.long_px, max(width, height))
        wide, high = _ceil(width, self.patch_px), _ceil(height, self.patch_px)
        patches = min(wide * high, self.patches_max)
        if wide * high < 4 * self.patches_min:
            # The image may be scaled up to `patches_min` (sides are rounded to whole patches first); each side is rounded up again.
            wide = max(wide, 1 + isqrt(_ceil(self.patches_min * width, height)))
            high = max(high, 1 + isqrt(_ceil(self.patches_min * height, width)))
            patches = max(patches, wide * high)
        return _ceil(patches * self.patch_tokens_milli, 1000) + self.row_tokens * high


class Area(_Frozen):
    """One token per so many pixels, up to a maximum (Anthropic until 2026: width x height / 750, at most 1600)."""

    kind: Literal["area"] = "area"
    pixels_per_token: _Positive
    tokens_max: _Positive

    def tokens(self, width: int, height: int) -> int:
        return min(_ceil(width * height, self.pixels_per_token), self.tokens_max)


class Fixed(_Frozen):
    """The same number of tokens for every image, also for an engine that cuts even the smallest image into views."""

    kind: Literal["fixed"] = "fixed"
    image_tokens: _Positive

    def tokens(self, width: int, height: int) -> int:
        return self.image_tokens


ImageRule = Annotated[Tiles | Patches | Area | Fixed, Field(discriminator="kind")]


class MediaRules(_Frozen):
    """What each item costs at most. The defaults are upper bounds for the vendors and engines in `media.yaml`, except for a video or a
    sound that is longer than its declared maximum.
    """

    # The most expensive of several rules counts, because the models of a vendor differ.
    image: tuple[ImageRule, ...] = (
        # InternVL: 13 views of 256 tokens; LLaVA-NeXT: 5 of 576. Small images are cut into views as well.
        Fixed(image_tokens=3328),
        Patches(patch_px=28, patches_min=64, patches_max=16_384),
        Patches(patch_px=32, patches_max=1536, patch_tokens_milli=2460),
        Patches(patch_px=16, patches_max=4096, long_px=1024, row_tokens=1),
        Tiles(base_tokens=85, tile_tokens=170),
    )
    # For an image whose size can't be read (a URL, an id, another format), and the maximum for every other image.
    image_max_tokens: _Positive = 16_384
    # With `detail: low`, if the vendor honours it.
    image_low_tokens: _Positive | None = None
    # Tokens per second: Gemini 32, Qwen 25, Voxtral 12.5, OpenAI 10; Whisper's encoder makes 50. A second of MP3 has at least 1000 bytes
    # (8 kbit/s, ISO/IEC 13818-3).
    audio_tokens_per_s: _Positive = 50
    audio_bytes_per_s_min: _Positive = 1000
    audio_max_tokens: _Positive = 65_536
    # Qwen's processor fits a whole video into 57 600.
    video_max_tokens: _Positive = 65_536
    # Anthropic, "PDF support": a page is 1500 to 3000 tokens of text, and an image.
    file_page_tokens: _Positive = 4600
    file_page_bytes_min: _Positive = 1024
    file_pages_max: _Positive = 600
    # Markers around an item, and the time of a video frame.
    item_tokens: _Tokens = 16

    def image_tokens(self, size: tuple[int, int] | None, *, low: bool = False) -> int:
        """Tokens of an image of (width, height) pixels; None: its size is not known."""
        if low and self.image_low_tokens is not None:
            return self.image_low_tokens + self.item_tokens
        found = self.image_max_tokens
        if size is not None:
            found = min(found, max((rule.tokens(*size) for rule in self.image), default=found))
        return found + self.item_tokens

    def audio_tokens(self, length_bytes: int | None, bytes_per_s: int | None = None) -> int:
        """Tokens of a sound of so many bytes, at the byte rate in its header if there is one. None: its length is not known."""
        found = self.audio_max_tokens
        if length_bytes is not None:
            seconds = _ceil(length_bytes, bytes_per_s or self.audio_bytes_per_s_min)
            found = min(found, seconds * self.audio_tokens_per_s)
        return found + self.item_tokens

    def video_tokens(self, frames: int | None) -> int:
        """Tokens of a video of so many frames that are given as images; None: the video is given whole."""
        if frames is None:
            return self.video_max_tokens + self.item_tokens
        return min(self.video_max_tokens, frames * self.image_max_tokens) + frames * self.item_tokens

    def file_tokens(self, length_bytes: int | None) -> int:
        """Tokens of a document of so many bytes; None: its length is not known."""
        pages = self.file_pages_max
        if length_bytes is not None:
            pages = min(pages, max(1, _ceil(length_bytes, self.file_page_bytes_min)))
        return pages * self.file_page_tokens + self.item_tokens


def _ceil(value: int, by: int) -> int:
    return -(-value // by)


def _fit(width: int, height: int, to_px: int, side_px: int) -> tuple[int, int]:
    """The size scaled down so that `side_px` becomes `to_px`, rounded up; unchanged if `side_px` is not more than that."""
    if side_px <= to_px:
        return width, height
    return _ceil(width * to_px, side_px), _ceil(height * to_px, side_px)


_Rules = dict[str, object]


class _MediaFile(_Frozen):
    """`media.yaml`: rules by profile and by the beginning of a model's name; they are validated as `MediaRules` when combined."""

    profiles: dict[str, _Rules]
    models: dict[str, _Rules]


@cache
def _shipped() -> _MediaFile:
    path = resources.files("tokenworks.factory").joinpath("media.yaml")
    return _MediaFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@lru_cache(maxsize=1024)
def media_rules(profile: str = GENERIC, upstream_model: str = "") -> MediaRules:
    """The shipped rules of a vendor's profile, with those of each model name that `upstream_model` begins with. A profile without
    rules has the generic ones.
    """
    shipped = _shipped()
    found = shipped.profiles.get(profile) or {}
    for beginning, rules in shipped.models.items():
        if upstream_model.startswith(beginning):
            found = found | rules
    return MediaRules.model_validate(found)
