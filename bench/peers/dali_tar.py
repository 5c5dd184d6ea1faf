"""NVIDIA DALI over tar shards: fn.readers.webdataset in a CPU pipeline, with index files, shuffled by a buffer."""

import glob
import os

import nvidia.dali as dali
from nvidia.dali import fn, pipeline_def

import dali_files
import tar_shards
from common import Job


def main():
    job = Job("dali_tar", "tar shards", [("threads", 2, "DALI threads"), ("queue", 2, "prefetch_queue_depth of pipeline and reader"),
                                         ("mmap", 1, "1: map the shards, DALI's default"),
                                         ("buffer", 1024, "samples of the shuffle buffer"),
                                         ("ahead", 0, "1: read_ahead")], converts=True)
    if job.convert(lambda folder: tar_shards.write(job, folder, index=True)):
        return
    job.version = f"dali {dali.__version__}"
    options = job.options

    @pipeline_def(batch_size=job.batch, num_threads=options.threads, device_id=None, prefetch_queue_depth=options.queue, seed=job.seed)
    def pipeline():
        return fn.readers.webdataset(paths=sorted(glob.glob(os.path.join(job.packed, "*.tar"))),
                                     index_paths=sorted(glob.glob(os.path.join(job.packed, "*.idx"))), ext=["bin"],
                                     random_shuffle=True, initial_fill=options.buffer, dont_use_mmap=not options.mmap, name="reader",
                                     read_ahead=bool(options.ahead), prefetch_queue_depth=options.queue, pad_last_batch=True)

    def build():
        pipe = pipeline()
        pipe.build()
        return lambda epoch: dali_files.batches(pipe, job)

    job.run(build)


if __name__ == "__main__":
    main()
