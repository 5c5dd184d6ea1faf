"""The samples as tar shards of about 256 MB, as WebDataset and DALI read them: NUMBER.bin, in the order of the list."""

import io
import os
import tarfile

SHARD_BYTES = 256 << 20


def write(job, folder, index=False):
    """`index`: beside each shard DALI's index file (v1.2: extension, offset of the data, bytes, name)."""
    shard, lines, number = None, [], 0

    def close():
        shard.close()
        if index:
            with open(shard.name[:-4] + ".idx", "w", encoding="ascii") as file:
                file.write(f"v1.2 {len(lines)}\n" + "".join(lines))

    for i, data in enumerate(job.samples()):
        if shard is None or shard.offset + len(data) > SHARD_BYTES:
            if shard is not None:
                close()
            shard, lines, number = tarfile.open(os.path.join(folder, f"{number:05d}.tar"), "w", format=tarfile.USTAR_FORMAT), [], number + 1
        info = tarfile.TarInfo(f"{i:09d}.bin")
        info.size = len(data)
        at = shard.offset + tarfile.BLOCKSIZE
        shard.addfile(info, io.BytesIO(data))
        lines.append(f"bin {at} {len(data)} {info.name}\n")
    close()
