"""MosaicML Streaming over its MDS shards, local and uncompressed, through PyTorch's DataLoader."""

import streaming
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import DataLoader

from common import Job


def as_list(batch):
    return [sample["bin"] for sample in batch]


def write(job, folder):
    with MDSWriter(out=folder, columns={"bin": "bytes"}, size_limit=64 << 20) as out:
        for data in job.samples():
            out.write({"bin": data})


def main():
    job = Job("streaming_mds", "MDS shards", [("workers", 2, "worker processes; 0: none"), ("prefetch", 4, "batches ahead of each worker")],
              converts=True)
    if job.convert(lambda folder: write(job, folder)):
        return
    job.version = f"mosaicml-streaming {streaming.__version__}"
    workers, prefetch = job.options.workers, job.options.prefetch
    streaming.base.util.clean_stale_shared_memory()

    def build():
        # py1s shuffles shards, and samples inside them. One canonical node: with the default of 64,
        # samples are repeated until their number divides by it.
        data = StreamingDataset(local=job.packed, shuffle=True, shuffle_seed=job.seed, shuffle_algo="py1s", batch_size=job.batch,
                                num_canonical_nodes=1)
        loader = DataLoader(data, batch_size=job.batch, num_workers=workers, collate_fn=as_list, persistent_workers=workers > 0,
                            prefetch_factor=prefetch if workers else None)
        return lambda epoch: loader

    job.run(build)


if __name__ == "__main__":
    main()
