#!/usr/bin/env python3
"""How many JPEGs a second become a normalised float batch [64, 3, 224, 224] on the CPU, and at what CPU time: examples/04_jpeg, torchvision
and DALI, interleaved. Bound by the decoder (libjpeg-turbo in all three), then by the resize.

    examples/make_jpegs.py /data/jpegs
    bench/peers/jpeg.py /data/jpegs --penstock build/gpu/examples/04_jpeg --venvs build/peers [--rounds 10]

Each arm reads shuffled epochs of the whole folder from the page cache, with --threads threads or worker processes (penstock: cpu_share 1,
which is one I/O stream and one compute thread per core). The time begins with the first batch asked for, so that imports and indexes are
left out. penstock lets the decoder make images of 1/8 to 8/8 of their size; torchvision's and DALI's decoders make all of it.
An arm whose venv is not there is left out, and said.
"""
import argparse
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import time

SIZE, BATCH, MEAN, DEVIATION = 224, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cpu_s():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def torchvision_epochs(paths, epochs, threads):
    """Workers decode and resize into one tensor of bytes; the main process normalises it as a whole."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2.functional import resize

    class Images(Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, index):
            return resize(decode_jpeg(read_file(paths[index]), mode=ImageReadMode.RGB), [SIZE, SIZE], antialias=False)

    torch.set_num_threads(1)
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    deviation = torch.tensor(DEVIATION).view(1, 3, 1, 1)
    loader = DataLoader(Images(), batch_size=BATCH, shuffle=True, num_workers=threads)
    for _ in range(epochs):
        for batch in loader:
            yield len(batch.to(torch.float32).div_(255).sub_(mean).div_(deviation))


def dali_epochs(paths, epochs, threads):
    """DALI's CPU pipeline, whole."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None, prefetch_queue_depth=2)
    def pipeline():
        jpegs, _ = fn.readers.file(files=paths, labels=[0] * len(paths), name="reader", shuffle_after_epoch=True)
        images = fn.resize(fn.decoders.image(jpegs, device="cpu"), resize_x=SIZE, resize_y=SIZE, antialias=False)
        return fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW", mean=[255 * value for value in MEAN],
                                        std=[255 * value for value in DEVIATION])

    pipe = pipeline()
    pipe.build()
    for _ in range(epochs):
        for first in range(0, len(paths), BATCH):
            (output,) = pipe.run()
            yield min(BATCH, len(paths) - first, len(output))


def run_arm(arm, root, epochs, threads):
    """In the arm's own Python."""
    paths = [str(path) for path in sorted(pathlib.Path(root).rglob("*.jpg"))]
    batches = {"torchvision": torchvision_epochs, "dali": dali_epochs}[arm](paths, epochs, threads)
    begin_s, begin_cpu_s = time.monotonic(), cpu_s()
    images = sum(batches)
    wall_s = time.monotonic() - begin_s
    print(json.dumps({"images": images, "images_per_s": images / wall_s, "cpu_s_per_1000": 1000 * (cpu_s() - begin_cpu_s) / images}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--penstock", default="build/gpu/examples/04_jpeg", help="(%(default)s)")
    parser.add_argument("--venvs", type=pathlib.Path, default=pathlib.Path("build/peers"), help="holds torch and dali (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arm", choices=["torchvision", "dali"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        run_arm(arguments.arm, arguments.root, arguments.epochs, arguments.threads)
        return
    commands = {"penstock": [arguments.penstock, arguments.root, f"--epochs={arguments.epochs}", f"--batch-size={BATCH}", "--json"]}
    for arm, venv in (("torchvision", "torch"), ("dali", "dali")):
        python = arguments.venvs / venv / "bin" / "python"
        if python.exists():
            commands[arm] = [str(python), __file__, arguments.root, "--arm", arm, "--epochs", str(arguments.epochs), "--threads",
                             str(arguments.threads)]
        else:
            print(f"{arm} is left out: there is no {python} (bench/peers/requirements)")
    results = {arm: [] for arm in commands}
    dice = random.Random(1)
    for _ in range(arguments.rounds):
        for arm in dice.sample(list(commands), len(commands)):
            done = subprocess.run(commands[arm], stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{arm} failed: {commands[arm]}")
            results[arm].append(json.loads(done.stdout.splitlines()[-1]))
    print("| arm | images/s | CPU s per 1000 images | CPU against penstock, paired | rounds |\n|---|---|---|---|---|")
    for arm, runs in results.items():
        ratio = statistics.median(run["cpu_s_per_1000"] / own["cpu_s_per_1000"] for run, own in zip(runs, results["penstock"]))
        print(f"| {arm} | {statistics.median(run['images_per_s'] for run in runs):.0f} | "
              f"{statistics.median(run['cpu_s_per_1000'] for run in runs):.3f} | {ratio:.2f} | {len(runs)} |")


if __name__ == "__main__":
    main()
