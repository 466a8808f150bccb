# SPDX-License-Identifier: Apache-2.0
"""The pictures of the gallery: a sick training beside its healthy twin, and single ones with what is said of them."""

from collections.abc import Sequence
from pathlib import Path

from gallery_runs import Record
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from lightning_rwc.movement import quantity_of
from lightning_rwc.names import shown
from lightning_rwc.plotting import to_image

_MARGIN, _TITLE = 8, 22


def heatmap(record: Record, measure: str = "rwc") -> Image.Image:
    """The heatmap of relative weight change or of a further measure, as the callback draws it."""
    history = record.histories[measure]
    if measure == "rwc":
        return _image(history.plot_heatmap(findings=record.findings, causes=record.causes))
    return _image(history.plot_heatmap(quantity_of(measure)))


def _image(figure: Figure) -> Image.Image:
    return Image.fromarray(to_image(figure))


def side_by_side(titles: Sequence[str], pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures with their titles, from left to right."""
    width, height = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    canvas = Image.new("RGB", (width, _TITLE + height), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for title, picture in zip(titles, pictures, strict=True):
        draw.text((left + picture.width // 2, _MARGIN), title, fill="black", font=_font(15, bold=True), anchor="mt")
        canvas.paste(picture, (left, _TITLE))
        left += picture.width
    return canvas


def with_findings(picture: Image.Image, record: Record) -> Image.Image:
    """A picture above the kind, the layers and the message of each finding, in the words of the tab."""
    font, bold, width = _font(13), _font(13, bold=True), picture.width - 2 * _MARGIN
    layers = record.histories["rwc"].layers
    names = dict(zip(layers, shown(layers), strict=True))
    lines = []
    for finding in record.findings:
        chosen = [names[layer] for layer in finding.layers]
        more = len(chosen) - 3 if len(chosen) > 4 else 0
        where = ", ".join(chosen[:3] if more else chosen) + (f" and {more} more" if more else "")
        about = f"{finding.kind.replace('_', ' ')} · {where} · epoch {finding.epoch}, step {finding.step}"
        lines += [(line, bold) for line in _wrapped(about, bold, width)]
        lines += [(line, font) for line in [*_wrapped(finding.message, font, width), ""]]
    lines = lines or [("Nothing was found.", font)]
    canvas = Image.new("RGB", (picture.width, picture.height + 2 * _MARGIN + 18 * len(lines)), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for number, (line, its_font) in enumerate(lines):
        draw.text((_MARGIN, picture.height + _MARGIN + 18 * number), line, fill="black", font=its_font)
    return canvas


def save(picture: Image.Image, path: Path, colours: int | None = None) -> None:
    """Write a PNG, with so many colours if it should be small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if colours is not None:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    properties = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return ImageFont.truetype(font_manager.findfont(properties), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
