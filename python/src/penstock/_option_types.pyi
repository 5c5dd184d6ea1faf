# Written by tools/write_option_types.py from the option table; tests/test_options.py compares them.
import os
from typing import Literal, TypedDict, Union


class LoaderOptions(TypedDict, total=False):
    manifest_path: Union[str, os.PathLike[str]]
    """where the manifest is saved; empty: the default place"""
    mixture_period: int
    """positions of a mixture that hold each data set as often as its weight says (M)"""
    epoch_samples: int
    """positions of an epoch of a mixture, all ranks; 0: as many as its data sets have samples"""
    rank: int
    """0 <= rank < world_size; -1: ask the launcher's environment"""
    world_size: int
    """ranks in all; -1: ask the launcher's environment"""
    rank_source: Union[str, os.PathLike[str]]
    """What gave rank and world_size, as setup() and the log name it. Empty = arguments"""
    batch_size: int
    """samples per rank and step"""
    seed: int
    """of the shuffle"""
    shuffle: Union[bool, Literal["disk-blocks"]]
    """false: the order of the ids; disk-blocks: blocks of neighbours on the drive"""
    block_samples: int
    """neighbours that stay together in the shuffle (b)"""
    window_samples: int
    """window of the shuffle inside a chunk (w), a multiple of block_samples"""
    virtual_streams: int
    """chunks of the epoch (V)"""
    tail: Literal["drop", "pad", "partial"]
    """what becomes of an epoch's last, incomplete step"""
    ledger_path: Union[str, os.PathLike[str]]
    """what the error policy did is appended to <ledger_path>.<rank>; empty: nowhere"""
    layout: Literal["ragged", "dense"]
    """places with holes, or [B, stride] of equal sizes"""
    policy: Literal["fail", "skip", "substitute"]
    """what happens to a sample that cannot be read"""
    verify: Literal["none", "stat"]
    """what is compared with the index beside the length"""
    retries: int
    """further tries of a failed read, before the policy"""
    skip_max: int
    """Bound of the samples that are skipped or substituted in an epoch; with more of them the epoch fails"""
    skip_share_max: float
    """The same bound as a share of the rank's samples in the epoch. 1: no bound"""
    skip_run_max: int
    """Bound of the samples in a row, of different files, that are skipped or substituted. 0: no bound"""
    deadline_s: float
    """of every wait, in seconds"""
    device: int
    """CUDA ordinal; -1: batches stay in host memory"""
    verify_crc: bool
    """compare each sample's stored bytes with the CRC-32C of its index"""
    codec_delivered_bytes_max: Union[int, str]
    """what a codec function may deliver for one sample; 0: not set"""
    codec_expansion_max: float
    """the same as a multiple of the stored bytes; 0: not set"""
    next_epoch_prefetch: bool
    """read on into the next epoch before the last batch is taken"""
    engine: Literal["auto", "uring", "threads"]
    """how bytes are moved"""
    io: Literal["auto", "buffered", "direct"]
    """through the page cache or past it"""
    warm: Literal["auto", "off", "on"]
    """read ahead into the page cache in the order of place"""
    epochs: int
    """that will be read in all; 0: not known. Nothing is read ahead beyond the last"""
    streams: int
    """I/O streams; 0: by cpu_share"""
    cpu_share: float
    """of the allowed cores"""
    queue_depth: int
    """reads in flight; 0: 64 per stream (128 for direct reads of files), 256 at most; tuned on network file systems"""
    read_bytes_max: Union[int, str]
    """largest single read"""
    piece_bytes: Union[int, str]
    """what one stream fills and one copy moves"""
    memory_bytes: Union[int, str]
    """Hard cap on the arena. 0 = a quarter of what the machine and the memory cgroup leave, divided by the local ranks, 1 GiB at most"""
    device_bytes: Union[int, str]
    """the device's ring of batches"""
    max_quarantine_bytes: Union[int, str]
    """memory given up to reads that never end; 0: a quarter of memory_bytes"""
    prefetch_batches: int
    """batches ahead of the consumer; 0: by batch and piece size"""
    coalesce_gap_bytes: Union[int, str]
    """unwanted bytes worth reading to save one read; -1: measured"""
    io_workers: int
    """both io-wq limits; threads of the pread pool; 0: 16, or 64 for direct reads of files; tuned on network file systems"""
    open_files: int
    """files kept open from one read to the next; -1: half of RLIMIT_NOFILE at most; 0: none"""
    huge_pages: bool
    """2 MiB pages where they can be had"""
    pin_cpus: Union[bool, Literal["auto"]]
    """Whether each stream is pinned to a core. auto = where a launcher counts several processes on the node, or the runtime several loaders"""


class IndexOptions(TypedDict, total=False):
    rule: Literal["auto", "classes", "flat", "list"]
    """how a path becomes samples"""
    manifest_path: Union[str, os.PathLike[str]]
    """Path of the saved manifest. Empty: the hidden file .NAME.penstock beside the data set NAME, or the cache folder"""
    threads: int
    """threads that list; 0: by cores and file system"""
    crc: bool
    """read all bytes, and keep a CRC-32C of each sample"""
    stat: bool
    """keep each file's time of modification, for loaders with verify=stat"""
    place: Literal["none", "inode", "extent"]
    """save the order in which files lie on the drive, for shuffle=disk-blocks"""
    format: Literal["auto", "files", "npy", "raw", "npy-files"]
    """What a file holds. files = one sample, its bytes. npy = samples along the first axis of a NumPy array. raw = records of one size. npy-files = one sample, a NumPy array without its header. auto = npy for a .npy file and a flat folder of .npy files, else files"""
    record_bytes: Union[int, str]
    """raw: of each sample"""
    header_bytes: Union[int, str]
    """raw: of each file before its first sample"""
    labels: Union[str, os.PathLike[str]]
    """npy, raw, npy-files: file with the labels of all samples; empty: labels.npy in the folder, else classes"""
    include: Union[str, os.PathLike[str]]
    """Globs of the files of a folder that are samples, with commas between them. Empty = all but names that are no data, such as lost+found and *.tmp"""
    exclude: Union[str, os.PathLike[str]]
    """Globs of files and folders that are left out, with commas between them"""
    extensions: Union[str, os.PathLike[str]]
    """Endings of the files of a folder that are samples: jpg,png. Empty = all"""
    classes: Union[str, os.PathLike[str]]
    """Which number each class folder has. Empty = its place in byte order. numeric = its place in the order of the numbers that folders are named by. @PATH = as another data set, its manifest, or a file of names. Else the names, with commas between them"""
    unknown_classes: Literal["refuse", "leave-out"]
    """What becomes of class folders that classes does not have"""
    keep_stale: bool
    """open: serve a saved manifest that is older than its data set"""
    wait_s: float
    """how long to wait for another process that indexes the same data set"""


class RuntimeOptions(TypedDict, total=False):
    memory_bytes: Union[int, str]
    """cap on the arenas of all its loaders; 0: none beyond each loader's own"""
    queue_depth: int
    """reads in flight of all its loaders; 0: 256, and up to 1,024 on network file systems"""
    io_workers: int
    """threads of the shared pread pool, beside those that loaders find to bring more"""
    loaders: int
    """that read at the same time, one per GPU: each has its part of the cores and of queue_depth"""
