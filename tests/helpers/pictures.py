"""One picture in every mode that Pillow reads."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

#: The picture: a ramp of greys, and three ramps of colours.
GREY = np.tile(np.arange(0, 256, 5, dtype=np.uint8), (16, 1))
COLOUR = np.stack([GREY, GREY[:, ::-1], np.tile(np.arange(0, 256, 16, dtype=np.uint8)[:, None], (1, 52))], -1)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels, *, bits=None, sign=1, zero=1, order="<"):
    """A TIFF file of one strip; Pillow writes fewer kinds than it reads.

    `sign` is the kind of number (1 unsigned, 2 signed, 3 floating point), `order` that of its bytes, `zero` what 0 is
    (0 white, 1 black, 2 colour).
    """
    height, width, *rest = pixels.shape
    channels = rest[0] if rest else 1
    bits = bits or 8 * pixels.dtype.itemsize
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        pairs = pixels.reshape(-1, 2)
        data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
        data = data.astype(np.uint8).tobytes()
    shared = struct.pack(f"{order}{2 * channels}H", *[bits] * channels, *[sign] * channels)
    place = 8 + 2 + 12 * 10 + 4
    shorts = {256: width, 257: height, 259: 1, 262: zero, 277: channels, 278: height}
    fields = {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    for tag, value, offset in ((258, bits, place), (339, sign, place + 2 * channels)):
        many = struct.pack(f"{order}HHII", tag, 3, channels, offset)
        fields[tag] = struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) if channels == 1 else many
    fields[273] = struct.pack(f"{order}HHII", 273, 4, 1, place + len(shared))
    fields[279] = struct.pack(f"{order}HHII", 279, 4, 1, len(data))
    table = b"".join(fields[tag] for tag in sorted(fields))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
    return head + table + b"\0\0\0\0" + shared + data


def png16(pixels, colour_type):
    """A PNG file of 16 bits a value."""
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def turned(image, kind):
    """The image upside down, with the tag that says so."""
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 3
    return encoded(image.transpose(Image.Transpose.ROTATE_180), kind, exif=exif)


def modes():
    """{name: (mode in Pillow, file, expected pixels)}; grey pixels [H, W], colours [H, W, 3]."""
    grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
    mask = grey.point(lambda value: 255 * (value > 127))
    palette = colour.quantize(256)
    coloured = np.asarray(palette.convert("RGB"))
    grey_alpha, colour_alpha = grey.copy(), colour.copy()
    grey_alpha.putalpha(mask)
    colour_alpha.putalpha(mask)
    lab = ImageCms.profileToProfile(
        colour, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    wide = COLOUR.astype(np.uint16) * 257
    sixteen, twelve = GREY.astype(np.uint16) * 257, np.rint(GREY * (4095 / 255)).astype(np.uint16)
    opaque = np.full_like(GREY, 255)
    return {
        "1": ("1", encoded(mask.convert("1"), "PNG"), np.asarray(mask)),
        "L": ("L", encoded(grey, "PNG"), GREY),
        "LA": ("LA", encoded(grey_alpha, "PNG"), GREY),
        "P": ("P", encoded(palette, "PNG"), coloured),
        "P, one colour transparent": ("P", encoded(palette, "PNG", transparency=3), coloured),
        "P, alpha": ("P", encoded(palette, "PNG", transparency=bytes(range(256))), coloured),
        "PA": ("PA", encoded(palette.convert("PA"), "TIFF"), coloured),
        "RGB": ("RGB", encoded(colour, "PNG"), COLOUR),
        "RGBA": ("RGBA", encoded(colour_alpha, "PNG"), COLOUR),
        "CMYK": ("CMYK", encoded(colour.convert("CMYK"), "TIFF"), COLOUR),
        "YCbCr": ("YCbCr", encoded(colour.convert("YCbCr"), "TIFF"), COLOUR),
        "LAB": ("LAB", encoded(lab, "TIFF"), COLOUR),
        "I;16": ("I;16", encoded(Image.fromarray(sixteen), "PNG"), GREY),
        "I;16 TIFF": ("I;16", tiff(sixteen), GREY),
        "I;16B": ("I;16B", tiff(sixteen, order=">"), GREY),
        "I;16, 12 bits": ("I;16", tiff(twelve, bits=12), GREY),
        "I;16, zero is white": ("I;16", tiff(65535 - sixteen, zero=0), GREY),
        "I, 16 bits": ("I", b"P5\n52 16\n65535\n" + sixteen.astype(">u2").tobytes(), GREY),
        "I, 0 to 255": ("I", tiff(GREY.astype(np.int32), sign=2), GREY),
        "I, 0 to 65535": ("I", tiff(GREY.astype(np.int32) * 257, sign=2), GREY),
        "I, 31 bits": ("I", tiff(GREY.astype(np.int32) * 8421504, sign=2), GREY),
        "I, 32 bits unsigned": ("I", tiff(GREY.astype(np.uint32) * 16843009), GREY),
        "I, signed": ("I", tiff(GREY.astype(np.int16) * 200 - 20000, sign=2), GREY),
        "F, 0 to 1": ("F", tiff(GREY.astype(np.float32) / 255, sign=3), GREY),
        "F, −1 to 1": ("F", tiff(GREY.astype(np.float32) / 127.5 - 1, sign=3), GREY),
        "F, 0 to 255": ("F", tiff(GREY.astype(np.float32), sign=3), GREY),
        "F, −1000 to 3080": ("F", tiff(GREY.astype(np.float32) * 16 - 1000, sign=3), GREY),
        "F, zero is white": ("F", tiff(1 - GREY.astype(np.float32) / 255, sign=3, zero=0), GREY),
        "RGB of 16 bits": ("RGB", tiff(wide, zero=2), COLOUR),
        "RGB of 16 bits, PNG": ("RGB", png16(wide, 2), COLOUR),
        "LA of 16 bits": ("RGBA", png16(np.stack([GREY, opaque], -1).astype(np.uint16) * 257, 4), GREY),
        "animated GIF": ("P", encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]), coloured),
        "animated PNG": ("RGB", encoded(colour, "PNG", save_all=True, append_images=[colour.rotate(180)]), COLOUR),
        "turned": ("RGB", turned(colour, "PNG"), COLOUR),
        "turned I;16": ("I;16", turned(Image.fromarray(sixteen), "PNG"), GREY),
    }
