"""NVIDIA DALI over the files: fn.readers.file in a CPU pipeline, the file names given in a new order each epoch.

The reader's own random_shuffle draws from a buffer of initial_fill samples which it holds in memory; with --buffer 0 it is off, and
one order of the file names is given instead (shuffle_after_epoch then reshuffles names between epochs, which is DALI's cheap way).
"""

import nvidia.dali as dali
from nvidia.dali import fn, pipeline_def

from common import Job


def batches(pipe, job):
    """One epoch. DALI fills the last batch up; what is over is not handed out."""
    left = len(job.files)
    while left > 0:
        (output,) = pipe.run()
        if output.is_dense_tensor() and left >= job.batch:
            yield list(output.as_array())
        else:
            yield [output.at(i) for i in range(min(left, len(output)))]
        left -= len(output)


def main():
    job = Job("dali_files", "files", [("threads", 2, "DALI threads"), ("queue", 2, "prefetch_queue_depth of pipeline and reader"),
                                      ("mmap", 0, "1: map the files, DALI's default"), ("ahead", 0, "1: read_ahead"),
                                      ("buffer", 0, "samples of the shuffle buffer")])
    job.version = f"dali {dali.__version__}"
    options = job.options

    @pipeline_def(batch_size=job.batch, num_threads=options.threads, device_id=None, prefetch_queue_depth=options.queue, seed=job.seed)
    def pipeline():
        paths = job.paths()
        shuffle = {"random_shuffle": True, "initial_fill": options.buffer} if options.buffer else {"shuffle_after_epoch": True}
        data, _ = fn.readers.file(files=[paths[i] for i in job.shuffled(0)], labels=list(range(len(paths))), name="reader",
                                  dont_use_mmap=not options.mmap, read_ahead=bool(options.ahead), prefetch_queue_depth=options.queue,
                                  pad_last_batch=True, **shuffle)
        return data

    def build():
        pipe = pipeline()
        pipe.build()
        return lambda epoch: batches(pipe, job)

    job.run(build)


if __name__ == "__main__":
    main()
