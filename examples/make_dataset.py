#!/usr/bin/env python3
"""Writes the 70,000 images of Fashion-MNIST as separate PGM files in class folders.

    make_dataset.py OUT [SOURCE]    SOURCE: the folder of the four *-ubyte.gz files (Debian's dataset-fashion-mnist by default)

OUT/train/<class>/NNNNN.pgm has the 60,000 training images, OUT/test/ the 10,000 test images; NNNNN is the image's place in the source.
OUT/train.txt and OUT/test.txt list them as `path<TAB>label`, one a line. They say what must be there: a folder that has lost a file
is just a smaller folder, a list that has lost one is an error. OUT/complete is written last: where it is, nothing is done, so a file that
you delete stays deleted. Remove OUT to start again.
"""
import gzip
import os
import pathlib
import struct
import sys

SOURCE = "/usr/share/datasets/fashion-mnist"
# The digit in front keeps the sorted folder names, and so the labels, in the order of the data set's own labels.
CLASSES = ["0-t-shirt", "1-trouser", "2-pullover", "3-dress", "4-coat", "5-sandal", "6-shirt", "7-sneaker", "8-bag", "9-ankle-boot"]
SPLITS = {"train": ("train", 60000), "test": ("t10k", 10000)}
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049  # IDX: unsigned bytes, three dimensions; one dimension


def read_idx(path, magic, dimension_count):
    """The dimensions and the bytes of an IDX file (the format of MNIST)."""
    with gzip.open(path) as file:
        content = file.read()
    header_bytes = 4 + 4 * dimension_count
    found_magic, *dimensions = struct.unpack_from(f">{1 + dimension_count}I", content)
    expected_bytes = header_bytes
    count = 1
    for dimension in dimensions:
        count *= dimension
    expected_bytes += count
    if found_magic != magic or len(content) != expected_bytes:
        sys.exit(f"{path}: not the IDX file it should be (magic {found_magic}, {len(content)} bytes; expected {magic}, {expected_bytes})")
    return dimensions, memoryview(content)[header_bytes:]


def write_split(source, prefix, expected_count, folder):
    """Writes one split below `folder` and its list beside it; returns the number of images."""
    (count, rows, columns), pixels = read_idx(source / f"{prefix}-images-idx3-ubyte.gz", IMAGES_MAGIC, 3)
    (label_count,), labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", LABELS_MAGIC, 1)
    if not count == label_count == expected_count:
        sys.exit(f"{source}: {prefix} has {count} images and {label_count} labels; expected {expected_count}")
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    header = b"P5\n%d %d\n255\n" % (columns, rows)
    image_bytes = rows * columns
    lines = []
    for index in range(count):
        name = f"{folder.name}/{CLASSES[labels[index]]}/{index:05d}.pgm"
        path = f"{folder.parent}/{name}"
        lines.append(f"{name}\t{labels[index]}\n")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            content = header + pixels[index * image_bytes:(index + 1) * image_bytes]
            if os.write(descriptor, content) != len(content):
                sys.exit(f"{path}: short write; is the file system full?")
        finally:
            os.close(descriptor)
    folder.with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
    return count


def main(arguments):
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    out = pathlib.Path(arguments[0])
    source = pathlib.Path(arguments[1] if len(arguments) == 2 else SOURCE)
    complete = out / "complete"
    if complete.exists():
        print(f"{out}: already there")
        return 0
    for split, (prefix, expected_count) in SPLITS.items():
        count = write_split(source, prefix, expected_count, out / split)
        print(f"{out / split}: {count} files written", flush=True)
    complete.write_text("made by examples/make_dataset.py\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
