#!/usr/bin/env python3
"""Does a real PyTorch training step ever wait for penstock? A convolutional network trained on the bytes of a data set of equal files.

    torch_step.py DIR [--device 0] [--batch 256] [--seconds 20] [--out FILE]

What bounds the answer: the step. Each file's first 3 x 190 x 190 bytes are an image, its class folder the label; nothing is decoded. First
the step is timed on one batch that stays where it is (at least 5 steps, and a second), then as many epochs are trained as fit into
--seconds. Reported are the steps' rate, the share of the time spent in next(), and accelerator utilisation as MLPerf Storage defines it:
the time that the steps take by themselves, over the time that they took. With --device -1 all of it happens on the CPU.

Prints one JSON object. Exit status 77: there is no PyTorch here, or none for this device.
"""

import argparse
import json
import sys
import time

SIDE = 190
IMAGE_BYTES = 3 * SIDE * SIDE


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="DIR")
    parser.add_argument("--device", type=int, default=0, help="CUDA ordinal; -1: the CPU (%(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="channels of the network's first stage (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="(%(default)s)")
    parser.add_argument("--out", help="a file for the JSON, too")
    return parser.parse_args()


def make_model(torch, width, classes):
    """Residual blocks as in ResNet-18: four stages of two, each half as large and twice as wide as the one before."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.path = nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
                nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
            self.short = nn.Identity() if inputs == outputs and stride == 1 else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, images):
            return torch.relu(self.path(images) + self.short(images))

    layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage in range(4):
        outputs = width << stage
        layers += [Block(channels, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def main():
    arguments = parse_arguments()
    try:
        import torch
    except ImportError as error:
        print(f"left out: no PyTorch for {sys.executable}: {error}", file=sys.stderr)
        return 77
    on_gpu = arguments.device >= 0
    if on_gpu and not torch.cuda.is_available():
        print(f"left out: PyTorch {torch.__version__} finds no CUDA device here", file=sys.stderr)
        return 77
    import penstock

    device = torch.device("cuda", arguments.device) if on_gpu else torch.device("cpu")
    options = {"batch_size": arguments.batch, "layout": "dense", "device": arguments.device, "rank": 0, "world_size": 1}
    with penstock.Loader(arguments.root, **options) as loader:
        if loader.manifest.max_sample_bytes < IMAGE_BYTES:
            raise SystemExit(f"torch_step.py: the files of {arguments.root} have {loader.manifest.max_sample_bytes} bytes, and an image "
                             f"needs {IMAGE_BYTES}")
        torch.manual_seed(0)
        model = make_model(torch, arguments.width, max(2, len(loader.manifest.classes))).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        criterion = torch.nn.CrossEntropyLoss()

        def synchronize():
            if on_gpu:
                torch.cuda.synchronize(device)

        def step(data, labels):
            images = data[:, :IMAGE_BYTES].view(-1, 3, SIDE, SIDE)
            images = images.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_gpu):
                loss = criterion(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss

        def tensors(batch):
            return torch.from_dlpack(batch.view()), torch.from_dlpack(batch.column("labels")).to(device).long()

        # The step by itself, on a batch that is there already.
        kept, kept_labels = (tensor.clone() for tensor in tensors(next(iter(loader))))
        times = []
        begin = time.perf_counter()
        while len(times) < 8 or time.perf_counter() - begin < min(1.0, arguments.seconds / 4):
            synchronize()
            before = time.perf_counter()
            step(kept, kept_labels)
            synchronize()
            times.append(time.perf_counter() - before)
        step_s = sorted(times[3:])[len(times[3:]) // 2]  # the first ones choose algorithms
        del kept, kept_labels

        steps, samples, wait_s, loss, last = 0, 0, 0.0, None, None
        begin = time.perf_counter()
        end = begin + arguments.seconds
        first_step_end = None
        while time.perf_counter() < end:
            batches = iter(loader)
            while time.perf_counter() < end:
                before = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                if first_step_end is not None:
                    wait_s += time.perf_counter() - before
                data, labels = tensors(batch)
                loss = step(data, labels)
                # A step is over before the next but one is given to the GPU, as in a program that logs its loss.
                if last is not None:
                    last.item()
                last = loss
                if first_step_end is None:
                    synchronize()
                    first_step_end = time.perf_counter()
                else:
                    steps += 1
                    samples += len(batch)
                del batch, data, labels
        synchronize()
        if not steps:
            raise SystemExit(f"torch_step.py: not two steps in {arguments.seconds} s; raise --seconds, or lower --batch")
        wall_s = time.perf_counter() - first_step_end
        result = {
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "torch": torch.__version__,
            "penstock": penstock.__version__,
            "batch": arguments.batch,
            "step_s": step_s,
            "steps": steps,
            "samples_per_s": samples / wall_s,
            "mb_per_s": 1e-6 * samples * loader.manifest.max_sample_bytes / wall_s,
            "next_share": wait_s / wall_s,
            "accelerator_utilisation": min(1.0, steps * step_s / wall_s),
            "final_loss": float(loss.item()),
            "verdict": loader.report()["verdict"],
        }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
