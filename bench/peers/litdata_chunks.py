"""Lightning LitData over its own chunks, local and uncompressed, through its StreamingDataLoader."""

import os

import litdata
from litdata.streaming.writer import BinaryWriter

from common import Job


def as_list(batch):  # LitData gives views of its mapped chunk, which cannot go to another process: the copy is the reading
    return [bytes(sample) for sample in batch]


def write(job, folder):
    writer = BinaryWriter(folder, chunk_bytes=64 << 20)
    for i, data in enumerate(job.samples()):
        writer.add_item(i, data)
    writer.done()
    writer.merge()


def main():
    job = Job("litdata_chunks", "LitData chunks", [("workers", 2, "worker processes; 0: none"),
                                                   ("prefetch", 4, "batches ahead of each worker")], converts=True)
    if job.convert(lambda folder: write(job, folder)):
        return
    job.version = f"litdata {litdata.__version__}"
    workers, prefetch = job.options.workers, job.options.prefetch
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")

    def build():
        data = litdata.StreamingDataset(job.packed, shuffle=True, seed=job.seed, drop_last=False)
        loader = litdata.StreamingDataLoader(data, batch_size=job.batch, num_workers=workers, collate_fn=as_list, shuffle=True,
                                             drop_last=False, prefetch_factor=prefetch if workers else None, persistent_workers=workers > 0)
        return lambda epoch: loader

    job.run(build)


if __name__ == "__main__":
    main()
