"""tf.data over the files: names shuffled, tf.io.read_file in parallel, batches of strings."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from common import Job


def finish(data, job):
    """Batches of byte strings as Python sees them, with tf.data's own threads limited to --threads (0: its own choice)."""
    options = tf.data.Options()
    if job.options.threads:
        options.threading.private_threadpool_size = job.options.threads
    options.deterministic = False
    return data.batch(job.batch).prefetch(job.options.prefetch).with_options(options)


def main():
    job = Job("tfdata_files", "files", [("parallel", -1, "num_parallel_calls; -1: AUTOTUNE"), ("prefetch", 4, "batches ahead"),
                                        ("threads", 0, "private thread pool; 0: tf.data's own")])
    job.version = f"tensorflow {tf.__version__}"

    def build():
        data = tf.data.Dataset.from_tensor_slices(job.paths()).shuffle(len(job.files), seed=job.seed, reshuffle_each_iteration=True)
        data = finish(data.map(tf.io.read_file, num_parallel_calls=job.options.parallel), job)
        return lambda epoch: data.as_numpy_iterator()

    job.run(build)


if __name__ == "__main__":
    main()
