"""SPDL (Meta) over the files: a pipeline of threads; each task reads a run of files, as its guide advises for small work items."""

import importlib.metadata

from spdl.pipeline import PipelineBuilder

from common import Job


def read_run(paths):
    samples = []
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            samples.append(file.read())
    return samples


def join(runs):
    return [sample for run in runs for sample in run]


def main():
    job = Job("spdl_files", "files", [("threads", 4, "reading threads"), ("run", 32, "files of one task; divides the batch"),
                                      ("sink", 3, "batches ahead")])
    job.version = f"spdl {importlib.metadata.version('spdl-core')}"
    options = job.options
    if job.batch % options.run:
        raise SystemExit("--run must divide --batch")
    pipelines = []

    def build():
        paths = job.paths()

        def epoch(number):
            order = job.shuffled(number)
            source = ([paths[i] for i in order[at:at + options.run]] for at in range(0, len(order), options.run))
            pipeline = (PipelineBuilder().add_source(source).pipe(read_run, concurrency=options.threads)
                        .aggregate(job.batch // options.run).pipe(join).add_sink(options.sink).build(num_threads=options.threads))
            pipelines.append(pipeline)
            with pipeline.auto_stop():
                yield from pipeline

        return epoch

    job.run(build)


if __name__ == "__main__":
    main()
