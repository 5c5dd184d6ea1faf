"""Google's grain over the files: a shuffled MapDataset of names in batches, each read into one buffer, by threads or worker processes."""

import importlib.metadata

import grain

from common import Job
from read_batch import read_batch, samples_of


def as_list(batch):
    return list(batch)


def iterator_of(batches, job):
    """`batches`: a MapDataset of whole batches. All epochs come from one iterator, so that reading goes on over their border."""
    options = job.options
    data = batches.repeat(job.epochs).to_iter_dataset(
        grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=max(options.threads, options.ahead)))
    if options.workers:
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=options.workers, per_worker_buffer_size=2))
    return iter(data)


def epoch_from(iterator, job):
    for _ in range(-(-len(job.files) // job.batch)):
        yield next(iterator)


def version():
    return f"grain {importlib.metadata.version('grain')}"


SETTINGS = [("workers", 0, "worker processes; 0: none"), ("threads", 2, "reading threads (of each process)"), ("ahead", 4, "batches ahead")]


def main():
    job = Job("grain_files", "files", SETTINGS)
    job.version = version()

    def build():
        files = list(zip(job.paths(), (size for _, size in job.files)))
        batches = grain.MapDataset.source(files).seed(job.seed).shuffle().batch(job.batch, batch_fn=as_list).map(read_batch)
        iterator = iterator_of(batches, job)
        return lambda epoch: (samples_of(*batch) for batch in epoch_from(iterator, job))

    job.run(build)


if __name__ == "__main__":
    main()
