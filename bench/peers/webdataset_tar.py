"""WebDataset over tar shards: shards shuffled, then a buffer of samples; WebLoader's worker processes."""

import glob
import os

import webdataset

import tar_shards
from common import Job


def only_bytes(sample):
    return sample["bin"]


def as_list(batch):
    return batch


def main():
    job = Job("webdataset_tar", "tar shards", [("workers", 2, "worker processes; 0: none"), ("prefetch", 4, "batches ahead of each worker"),
                                               ("buffer", 1000, "samples of the shuffle buffer of each worker")], converts=True)
    if job.convert(lambda folder: tar_shards.write(job, folder)):
        return
    job.version = f"webdataset {webdataset.__version__}"
    options = job.options

    def build():
        shards = sorted(glob.glob(os.path.join(job.packed, "*.tar")))
        data = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=job.seed, empty_check=False,
                                     workersplitter=webdataset.split_by_worker, nodesplitter=webdataset.single_node_only)
        data = data.shuffle(options.buffer).map(only_bytes)
        loader = webdataset.WebLoader(data.batched(job.batch, collation_fn=as_list, partial=True), batch_size=None,
                                      num_workers=options.workers, prefetch_factor=options.prefetch if options.workers else None,
                                      persistent_workers=options.workers > 0)
        return lambda epoch: loader

    job.run(build)


if __name__ == "__main__":
    main()
