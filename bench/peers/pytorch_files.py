"""PyTorch DataLoader over the files: a map-style dataset, worker processes, the batch as a list of bytes."""

import torch
from torch.utils.data import DataLoader, Dataset

from common import Job


class Files(Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with open(self.paths[index], "rb", buffering=0) as file:
            return file.read()


def as_list(batch):  # no default_collate: it cannot stack ragged samples, and would copy
    return batch


def main():
    job = Job("pytorch_files", "files", [("workers", 2, "worker processes; 0: none"), ("prefetch", 4, "batches ahead of each worker")])
    job.version = f"torch {torch.__version__}"
    workers, prefetch = job.options.workers, job.options.prefetch

    def build():
        generator = torch.Generator()
        generator.manual_seed(job.seed)
        loader = DataLoader(Files(job.paths()), batch_size=job.batch, shuffle=True, num_workers=workers, collate_fn=as_list,
                            prefetch_factor=prefetch if workers else None, persistent_workers=workers > 0, generator=generator)
        return lambda epoch: loader

    job.run(build)


if __name__ == "__main__":
    main()
