"""FFCV over its .beton file: a BytesField, global shuffle, the file mapped (os_cache) or read by pages.

A batch comes as rows as wide as the longest sample of the data set, and the lengths beside it as a second field; ragged data sets pay
for that in memory.
"""

import os

import numpy as np
from ffcv.fields import BytesField, IntField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.bytes import BytesDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.writer import DatasetWriter

from common import Job


class Samples:
    def __init__(self, job):
        self.paths = job.paths()

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        data = np.fromfile(self.paths[index], dtype=np.uint8)
        return data, data.size


def write(job, folder):
    largest = max(size for _, size in job.files)
    page_bytes = max(8 << 20, 1 << (largest - 1).bit_length())
    DatasetWriter(os.path.join(folder, "data.beton"), {"bin": BytesField(), "bytes": IntField()}, page_size=page_bytes, num_workers=1) \
        .from_indexed_dataset(Samples(job))


def main():
    job = Job("ffcv_beton", ".beton file", [("workers", 2, "threads"), ("ahead", 3, "batches ahead"),
                                            ("cache", 1, "1: map the file (os_cache); 0: read pages, quasi-random order")], converts=True)
    if job.convert(lambda folder: write(job, folder)):
        return
    job.version = "ffcv 1.0.2"
    options = job.options

    def build():
        loader = Loader(os.path.join(job.packed, "data.beton"), batch_size=job.batch, num_workers=options.workers, seed=job.seed,
                        order=OrderOption.RANDOM if options.cache else OrderOption.QUASI_RANDOM, os_cache=bool(options.cache),
                        batches_ahead=options.ahead, drop_last=False, pipelines={"bin": [BytesDecoder()], "bytes": [IntDecoder()]})

        def epoch(number):
            for rows, lengths in loader:
                yield [row[:length] for row, length in zip(rows, lengths[:, 0].tolist())]

        return epoch

    job.run(build)


if __name__ == "__main__":
    main()
