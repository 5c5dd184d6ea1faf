"""tf.data over TFRecord shards: shards shuffled and interleaved, then a buffer of records; batches of strings."""

import glob
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from common import Job
from tfdata_files import finish


def main():
    job = Job("tfdata_tfrecord", "TFRecord shards", [("cycle", 4, "shards read at once"), ("prefetch", 4, "batches ahead; -1: AUTOTUNE"),
                                                     ("threads", 0, "private thread pool; 0: tf.data's own"),
                                                     ("buffer", 1000, "records of the shuffle buffer")], converts=True)
    if job.convert(lambda folder: job.write_shards(folder, "tfrecord", tf.io.TFRecordWriter)):
        return
    job.version = f"tensorflow {tf.__version__}"

    def build():
        shards = sorted(glob.glob(os.path.join(job.packed, "*.tfrecord")))
        data = tf.data.Dataset.from_tensor_slices(shards).shuffle(len(shards), seed=job.seed)
        data = data.interleave(lambda path: tf.data.TFRecordDataset(path, buffer_size=4 << 20), cycle_length=job.options.cycle,
                               num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
        data = finish(data.shuffle(job.options.buffer, seed=job.seed), job)
        return lambda epoch: data.as_numpy_iterator()

    job.run(build)


if __name__ == "__main__":
    main()
