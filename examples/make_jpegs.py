#!/usr/bin/env python3
"""Makes an ImageNet-like folder of real JPEGs: class folders of images cut out of photographs, of varied size, scale and quality.

    examples/make_jpegs.py OUT [--count 2000] [--classes 20] [--pictures FOLDER ...] [--seed 1]

The photographs are those in some Debian packages, which are downloaded into OUT.pictures (54 MB) and unpacked there, not installed; or
whatever --pictures names. Sides and qualities vary as in ImageNet. A folder that is complete is left as it is. Needs Pillow (python3-pil).
"""
import argparse
import math
import pathlib
import random
import subprocess
import sys

PACKAGES = ["python3-skimage", "ukui-wallpapers", "lomiri-wallpapers-20.04"]  # in main; skimage's are the pictures of its documentation


def fetch(folder):
    """Downloads and unpacks the packages once."""
    done = folder / ".complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
            package.unlink()
        done.touch()
    return folder


def photographs(folders):
    """The pictures that are large and lively enough to cut from, in RGB."""
    from PIL import Image, ImageStat
    found = []
    for path in sorted(path for folder in folders for path in pathlib.Path(folder).rglob("*")):
        if "tests" in path.parts or path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or not path.is_file():
            continue
        try:
            with Image.open(path) as image:
                image = image.convert("RGB")
        except (OSError, ValueError):
            continue  # damaged, or of a kind that this Pillow does not read
        image.thumbnail((3000, 3000))
        if min(image.size) >= 400 and max(ImageStat.Stat(image).stddev) > 20:
            found.append(image)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--pictures", nargs="+", default=None, help="folders to take photographs from")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    stamp = arguments.out.with_name(arguments.out.name + ".stamp")
    recipe = f"make_jpegs 1: {arguments.count} {arguments.classes} {arguments.seed} {arguments.pictures}\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == recipe:
        return
    folders = arguments.pictures
    try:
        if folders is None:
            folders = [fetch(arguments.out.with_name(arguments.out.name + ".pictures"))]
        pictures = photographs(folders)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"make_jpegs.py: no photographs: {error}. Name folders of your own with --pictures")
    except ImportError:
        sys.exit("make_jpegs.py: no Pillow: apt-get install python3-pil")
    if not pictures:
        sys.exit(f"make_jpegs.py: no photographs in {', '.join(map(str, folders))}: name other folders with --pictures")
    dice = random.Random(arguments.seed)
    total = 0
    for number in range(arguments.count):
        picture = pictures[number % len(pictures)]
        width = max(64, round(dice.lognormvariate(math.log(480), 0.3)))
        height = max(64, round(width * dice.choice([0.75, 0.75, 0.667, 1.0, 1.333])))
        # A cut of the picture, shown smaller or as it is: detail as a camera's.
        zoom = min(dice.uniform(1, 3), picture.width / width, picture.height / height)
        cut = (min(picture.width, round(width * zoom)), min(picture.height, round(height * zoom)))
        left, top = dice.randint(0, picture.width - cut[0]), dice.randint(0, picture.height - cut[1])
        image = picture.resize((width, height), box=(left, top, left + cut[0], top + cut[1]))
        path = arguments.out / f"class{number % arguments.classes:02d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=dice.randint(75, 96), subsampling=dice.choice([0, 2, 2, 2]), progressive=dice.random() < 0.1)
        total += path.stat().st_size
    stamp.write_text(recipe, encoding="utf-8")
    print(f"make_jpegs.py: {arguments.count} JPEGs from {len(pictures)} photographs in {arguments.out}, "
          f"{total / arguments.count / 1000:.0f} kB each")


if __name__ == "__main__":
    main()
