"""Google's grain over ArrayRecord shards (group_size:1, uncompressed), shuffled globally: the form in which grain is meant to be fed."""

import glob
import os

import grain
from array_record.python.array_record_module import ArrayRecordWriter

import grain_files
from common import Job


def main():
    job = Job("grain_arrayrecord", "ArrayRecord shards", grain_files.SETTINGS, converts=True)
    if job.convert(lambda folder: job.write_shards(folder, "arrayrecord", lambda path: ArrayRecordWriter(path, "group_size:1,uncompressed"))):
        return
    job.version = grain_files.version()

    def build():
        source = grain.sources.ArrayRecordDataSource(sorted(glob.glob(os.path.join(job.packed, "*.arrayrecord"))))
        # The indices are shuffled and cut into batches, and a batch is one call of the source, which reads it with threads of its own.
        batches = grain.MapDataset.range(len(source)).seed(job.seed).shuffle().batch(job.batch, batch_fn=grain_files.as_list)
        iterator = grain_files.iterator_of(batches.map(source.__getitems__), job)
        return lambda epoch: grain_files.epoch_from(iterator, job)

    job.run(build)


if __name__ == "__main__":
    main()
