"""SPDL (Meta) over the files: a pipeline of threads; each task reads a whole batch into one buffer."""

import importlib.metadata

from spdl.pipeline import PipelineBuilder

from common import Job
from read_batch import read_batch, samples_of


def main():
    job = Job("spdl_files", "files", [("threads", 2, "reading threads, a batch each"), ("sink", 2, "batches ahead")])
    job.version = f"spdl {importlib.metadata.version('spdl-core')}"
    options = job.options

    def build():
        files = list(zip(job.paths(), (size for _, size in job.files)))

        def epoch(number):
            order = job.shuffled(number)
            source = ([files[i] for i in order[at:at + job.batch]] for at in range(0, len(order), job.batch))
            pipeline = (PipelineBuilder().add_source(source).pipe(read_batch, concurrency=options.threads).add_sink(options.sink)
                        .build(num_threads=options.threads))
            with pipeline.auto_stop():
                for buffer, sizes in pipeline:
                    yield samples_of(buffer, sizes)

        return epoch

    job.run(build)


if __name__ == "__main__":
    main()
