"""Google's grain over the files: a shuffled MapDataset of paths, read by threads, or by worker processes with --workers."""

import grain
from grain.experimental import multithread_prefetch  # noqa: F401  (says early that this grain is too old)

from common import Job


def read_file(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()


def as_list(batch):
    return list(batch)


def epochs_of(source, job):
    """`source`: a MapDataset of samples. All epochs come from one iterator, so that reading goes on over their border."""
    data = source.seed(job.seed).shuffle().repeat(job.epochs)
    data = data.to_iter_dataset(grain.ReadOptions(num_threads=job.options.threads, prefetch_buffer_size=job.options.samples))
    data = data.batch(job.batch, batch_fn=as_list)
    if job.options.workers:
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=job.options.workers, per_worker_buffer_size=4))
    return data


def epoch_from(iterator, job, rest):
    """The batches of one epoch. One that spans two epochs, as repeat() makes them, is cut in two."""
    left = len(job.files)
    while left > 0:
        batch = rest.pop() if rest else next(iterator)
        if len(batch) > left:
            rest.append(batch[left:])
            batch = batch[:left]
        left -= len(batch)
        yield batch


SETTINGS = [("workers", 0, "worker processes; 0: none"), ("threads", 16, "reading threads (of each process)"),
            ("samples", 512, "samples read ahead")]


def main():
    job = Job("grain_files", "files", SETTINGS)
    job.version = f"grain {grain.__version__}" if hasattr(grain, "__version__") else "grain"

    def build():
        iterator, rest = iter(epochs_of(grain.MapDataset.source(job.paths()).map(read_file), job)), []
        return lambda epoch: epoch_from(iterator, job, rest)

    job.run(build)


if __name__ == "__main__":
    main()
