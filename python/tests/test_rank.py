"""Which part of the data a loader reads, where nobody gives its rank."""

import os
import subprocess
import sys
import types

import pytest

import penstock

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
PREFIXES = ("OMPI_", "PMI", "MV2_", "MPI_LOCAL", "JSM_", "FLUX_", "PALS_", "SLURM_")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name in VARIABLES or name.startswith(PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def process_group(monkeypatch):
    """A torch.distributed that the program has imported and initialised: torch itself is not needed to see what the loader asks it."""

    def initialise(rank, world_size, initialised=True, available=True):
        module = types.ModuleType("torch.distributed")
        module.is_available = lambda: available
        module.is_initialized = lambda: initialised
        module.get_rank = lambda: rank
        module.get_world_size = lambda: world_size
        monkeypatch.setitem(sys.modules, "torch.distributed", module)

    return initialise


def ids_of(loader):
    return [i for batch in loader for i in batch.ids.tolist()]


def test_a_loader_is_the_rank_of_the_process_group(ragged, process_group):
    seen = []
    for rank in range(4):
        process_group(rank, 4)
        with penstock.Loader(ragged.root, batch_size=5, memory_bytes="16 MiB", tail="partial") as loader:
            setup = loader.setup()
            assert (setup["rank"], setup["world_size"]) == (rank, 4)
            assert setup["rank_why"] == f"rank {rank} of 4 (from torch.distributed)"
            seen += ids_of(loader)
        assert penstock.rank()["text"] == f"rank {rank} of 4 (from torch.distributed)"
    assert sorted(seen) == list(range(len(ragged)))


def test_a_group_that_is_not_initialised_says_nothing(ragged, process_group):
    for state in ({"initialised": False}, {"available": False}):
        process_group(3, 4, **state)
        with penstock.Loader(ragged.root, batch_size=5, memory_bytes="16 MiB") as loader:
            assert loader.setup()["rank_why"] == "rank 0 of 1 (from single process)"


def test_arguments_come_before_the_group_and_the_group_before_the_launcher(ragged, process_group, monkeypatch):
    process_group(3, 4)
    with penstock.Loader(ragged.root, batch_size=5, memory_bytes="16 MiB", rank=1, world_size=2) as loader:
        assert loader.setup()["rank_why"] == "rank 1 of 2 (from arguments)"
    # A launcher that started one process on each of two nodes, which spawned two each.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert penstock.rank()["text"] == "rank 3 of 4 (from torch.distributed)"
    # What the launcher left out is no error where the group says it.
    monkeypatch.delenv("WORLD_SIZE")
    assert penstock.rank()["text"] == "rank 3 of 4 (from torch.distributed)"


def test_process_groups_beside_each_other_are_refused(ragged, process_group, monkeypatch):
    process_group(0, 2)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(penstock.InvalidArgumentError, match="rank 0 of 2, but the launcher says rank 2 of 8.*Give rank and world_size"):
        penstock.Loader(ragged.root)


def test_a_state_that_is_loaded_keeps_the_rank(ragged, process_group):
    process_group(1, 2)
    with penstock.Loader(ragged.root, batch_size=5, memory_bytes="16 MiB") as loader:
        loader.next()
        state = loader.state_dict()
        process_group(1, 2, initialised=False)  # destroy_process_group()
        loader.load_state_dict(state)
        assert loader.setup()["rank_why"] == "rank 1 of 2 (from torch.distributed)"


def test_an_incomplete_set_of_variables_is_refused_with_the_cure(ragged, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(penstock.InvalidArgumentError, match="LOCAL_RANK = 1 is set without RANK and WORLD_SIZE.*init_process_group"):
        penstock.Loader(ragged.root)


def test_the_first_line_of_the_log_is_the_rank(ragged):
    lines = []
    penstock.set_log(lambda level, text: lines.append(text))
    try:
        penstock.Loader(ragged.root, batch_size=5, memory_bytes="16 MiB").close()
    finally:
        penstock.set_log(None)
    assert lines[0] == f"{ragged.root}: rank 0 of 1 (from single process)"


SPAWN = """
import sys
import torch.distributed
import torch.multiprocessing

def run(rank, world_size, store, root, out):
    torch.distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=world_size)
    import penstock
    import penstock.torch
    {open}
    with open(out + str(rank), "w") as file:
        print(loader.setup()["rank_why"], *[i for batch in loader for i in batch.ids.tolist()], sep="\\n", file=file)
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.spawn(run, args=(3, *sys.argv[1:4]), nprocs=3)
"""
OPENS = {
    "Loader": 'loader = penstock.Loader(root, batch_size=4, memory_bytes="16 MiB", tail="partial")',
    "torch.IterableDataset": 'loader = penstock.torch.IterableDataset(root, batch_size=4, memory_bytes="16 MiB", tail="partial").loader',
}


@pytest.mark.parametrize("what", OPENS)
def test_processes_of_mp_spawn_share_the_epoch(ragged, tmp_path, what):
    pytest.importorskip("torch")
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN.format(open=OPENS[what]))
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(penstock.__file__))}
    subprocess.run([sys.executable, str(script), str(tmp_path / "store"), ragged.root, str(tmp_path / "out")], check=True, timeout=120,
                   env=environment)
    seen = []
    for rank in range(3):
        why, *ids = (tmp_path / f"out{rank}").read_text().split("\n")
        assert why == f"rank {rank} of 3 (from torch.distributed)"
        seen += [int(i) for i in ids if i]
    assert sorted(seen) == list(range(len(ragged)))
