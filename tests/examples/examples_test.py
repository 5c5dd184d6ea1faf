#!/usr/bin/env python3
"""Runs an example as a user does.

    examples_test.py first_batch|from_c|training_loop|jpeg PROGRAM

Ends with 0 if all is as it should be, with 77 where the program was not built.
"""
import ctypes
import ctypes.util
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

CLASSES = 10
HEADER = b"P5\n28 28\n255\n"


def run(*command, status=0):
    """Runs a program, demands its exit status and returns what it printed."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if (done.returncode != 0) != (status != 0):
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def demand(pattern, output):
    """Ends the test where the output has no line like this."""
    if re.search(pattern, output, re.MULTILINE) is None:
        sys.exit(f"nothing like /{pattern}/ in:\n{output}")


def first_batch(program, folder):
    """Eight files in two classes; then seven."""
    for number in range(8):
        path = folder / f"class{number % 2}" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * (100 + number))
    output = run(program, folder)
    seen = sorted((int(size), int(label)) for size, label in re.findall(r"^sample \d+: (\d+) bytes, label (\d)$", output, re.MULTILINE))
    if seen != [(100 + number, number % 2) for number in range(8)]:
        sys.exit(f"not the eight samples:\n{output}")
    (folder / "class1" / "5.bin").unlink()
    demand(r"class1/5\.bin", run(program, folder, status=1))


def from_c(program, folder):
    """The same files, all of them: the sum is printed at the epoch's end."""
    path = folder / "class0" / "alone.bin"
    path.parent.mkdir()
    path.write_bytes(b"y" * 77)
    total = 0
    for _ in range(77):
        total = (total * 31 + ord("y")) % 2**64
    demand(rf"^1 samples, 77 bytes, their sum {total:016x}$", run(program, folder))
    with tempfile.TemporaryDirectory() as other:
        first_batch(program, pathlib.Path(other))


def write_images(folder, split, count):
    """Images that a network learns within an epoch: a class is the place of a bright bar. A list names them, as make_dataset.py does."""
    dice = random.Random(split)
    lines = []
    for number in range(count):
        label = number % CLASSES
        rows = [bytes(min(255, dice.randrange(80) + (150 if row // 2 == label + 2 else 0)) for _ in range(28)) for row in range(28)]
        path = folder / split / str(label) / f"{number:05d}.pgm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(HEADER + b"".join(rows))
        lines.append(f"{path.relative_to(folder)}\t{label}\n")
    (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")


def training_loop(program, folder):
    """Both loaders learn; without one of its files neither half of a run gets through, and the file is named."""
    write_images(folder, "train", 1280)
    write_images(folder, "test", 200)
    command = [program, folder, "--epochs=2", "--batch-size=32", "--expect-accuracy=95"]
    epoch = (r"^epoch 2: loss \d\.\d+, test accuracy [\d.]+ %, \d+ samples/s, waited for data [\d.]+ % of the time, "
             r"made tensors of it [\d.]+ %$")
    demand(epoch, run(*command))
    demand(epoch, run(*command, "--loader=plain"))
    for name in ("train/3/00013.pgm", "test/7/00017.pgm"):
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        demand(re.escape(name), run(*command, status=1))
        path.write_bytes(content[:-1])
        demand(re.escape(name), run(*command, status=1))
        path.write_bytes(content)
    demand(epoch, run(*command))


def write_jpeg(path, width, height, grey):
    """A JPEG of one grey, by the library that the example decodes with."""
    library = ctypes.CDLL(ctypes.util.find_library("turbojpeg"))
    library.tjInitCompress.restype = ctypes.c_void_p
    library.tjInitCompress.argtypes = []
    library.tjCompress2.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                                    ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_ulong), ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.tjFree.argtypes = [ctypes.c_void_p]
    library.tjDestroy.argtypes = [ctypes.c_void_p]
    handle, buffer, size = library.tjInitCompress(), ctypes.c_void_p(), ctypes.c_ulong()
    pixels = bytes([grey]) * (width * height * 3)
    if library.tjCompress2(handle, pixels, width, 0, height, 0, ctypes.byref(buffer), ctypes.byref(size), 2, 90, 0) != 0:
        sys.exit("tjCompress2 failed")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ctypes.string_at(buffer, size.value))
    library.tjFree(buffer)
    library.tjDestroy(handle)


def jpeg(program, folder):
    """Images of all sizes become batches; one that is cut short, or is no JPEG, follows the policy."""
    for number in range(60):
        write_jpeg(folder / f"class{number % 3}" / f"{number:02d}.jpg", 40 + 17 * number, 30 + 11 * (number % 31), 128)
    command = [program, folder, "--batch-size=16", "--size=64"]
    # Two epochs of 4 batches. The first value of each: (128 / 255 - 0.485) / 0.229.
    demand(r"^120 images \(0 skipped, 0 substituted\), .* \(first values: 0\.59\d\d\)$", run(*command))
    for kind in ("bfloat16", "half"):
        demand(r"^120 images ", run(*command, f"--type={kind}"))
    whole = (folder / "class1" / "07.jpg").read_bytes()
    for damaged in (whole[:-5], whole[:200], b"not a JPEG at all" + whole):
        (folder / "class1" / "07.jpg").write_bytes(damaged)
        folder.with_name(f".{folder.name}.penstock").unlink(missing_ok=True)
        demand(r"class1/07\.jpg", run(*command, status=1))
        demand(r"^120 images \(2 skipped, 0 substituted\)", run(*command, "--policy=skip"))
        demand(r"^120 images \(0 skipped, 2 substituted\)", run(*command, "--policy=substitute"))


def main(arguments):
    tests = {"first_batch": first_batch, "from_c": from_c, "training_loop": training_loop, "jpeg": jpeg}
    if len(arguments) != 2 or arguments[0] not in tests:
        print(__doc__, file=sys.stderr)
        return 2
    if not os.path.exists(arguments[1]):
        print(f"skipped: {arguments[1]} was not built: what it needs is not here (cmake/install_dependencies.sh examples)")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        tests[arguments[0]](arguments[1], pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
