"""PyTorch DataLoader over the files: worker processes, each batch read into one tensor of shared memory, so that none is pickled.

The plain way, one bytes object for each sample through the workers' pipe, gave about half the rate at the same CPU per GB (100 KB, warm;
single runs).
"""

import torch
from torch.utils.data import DataLoader, Dataset

from common import Job
from read_batch import read_into, samples_of


class Files(Dataset):
    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitems__(self, indices):
        wanted = [self.files[index] for index in indices]
        sizes = [size for _, size in wanted]
        # As default_collate does in a worker: memory that the consumer maps instead of receiving.
        batch = torch.empty(0, dtype=torch.uint8)
        batch.set_(torch.UntypedStorage._new_shared(sum(sizes)))
        read_into(memoryview(batch.numpy()), wanted)
        return batch, sizes


def as_it_is(batch):
    return batch


def main():
    job = Job("pytorch_files", "files", [("workers", 2, "worker processes; 0: none"), ("prefetch", 2, "batches ahead of each worker")])
    job.version = f"torch {torch.__version__}"
    workers, prefetch = job.options.workers, job.options.prefetch

    def build():
        generator = torch.Generator()
        generator.manual_seed(job.seed)
        data = Files(list(zip(job.paths(), (size for _, size in job.files))))
        loader = DataLoader(data, batch_size=job.batch, shuffle=True, num_workers=workers, collate_fn=as_it_is,
                            prefetch_factor=prefetch if workers else None, persistent_workers=workers > 0, generator=generator)
        return lambda epoch: (samples_of(batch.numpy(), sizes) for batch, sizes in loader)

    job.run(build)


if __name__ == "__main__":
    main()
