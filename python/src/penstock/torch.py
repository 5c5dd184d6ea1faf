"""penstock under torch's DataLoader, and torchdata's StatefulDataLoader."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Mapping, Optional, Union

import torch.utils.data

from .batch import Batch
from .errors import FailedPreconditionError
from .loader import Loader, Runtime, _state_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._option_types import LoaderOptions
    from .loader import Mixture


class IterableDataset(torch.utils.data.IterableDataset[Any]):
    """The batches of a penstock.Loader as an iterable data set:

        dataset = penstock.torch.IterableDataset("train", batch_size=256, transform=to_tensors)
        for images, labels in torch.utils.data.DataLoader(dataset, batch_size=None):

    ``transform`` makes of a penstock.Batch what the loop gets; without it that is the Batch itself. It runs in the thread of the training
    loop.

    ``batch_size=None`` and ``num_workers=0`` are needed of the DataLoader: batches are made and read ahead by penstock's threads already,
    and a worker would copy each batch to another process. In a worker iteration is refused.

    ``state_dict()`` and ``load_state_dict()`` are what torchdata.stateful_dataloader.StatefulDataLoader asks for. The loader is opened by
    the first use.
    """

    def __init__(self, root: "Optional[Union[str, os.PathLike[str]]]" = None, *, transform: Optional[Callable[[Batch], Any]] = None,
                 mixture: "Optional[Mixture]" = None, ids: Optional[Any] = None, runtime: Optional[Runtime] = None,
                 state: "Optional[Union[str, Mapping[str, Any]]]" = None, **options: "Unpack[LoaderOptions]") -> None:
        super().__init__()
        self._root = root
        self._options: Dict[str, Any] = {"mixture": mixture, "ids": ids, "runtime": runtime, "state": state, **options}
        self._transform = transform
        self._loader: Optional[Loader] = None

    @property
    def loader(self) -> Loader:
        """The penstock.Loader below: its report, its manifest, its epoch."""
        if torch.utils.data.get_worker_info() is not None:
            raise FailedPreconditionError(
                "penstock.torch.IterableDataset in a worker of a DataLoader: penstock reads with threads of its own, and a worker would "
                "copy every batch to another process. Use DataLoader(dataset, batch_size=None, num_workers=0)")
        if self._loader is None:
            self._loader = Loader(self._root, **self._options)
        return self._loader

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        return batches if self._transform is None else map(self._transform, batches)

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> Dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._loader is None:
            self._options["state"] = _state_text(state)
            self.loader  # a state that does not fit is refused here, not in the first step
        else:
            self._loader.load_state_dict(state)

    def close(self) -> None:
        """Ends reading; the next use opens the loader again, from the start (or the state that was given)."""
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.close()

    def __getstate__(self) -> Dict[str, Any]:
        # A worker that is spawned gets a copy without the loader, and its iteration is refused with the reason.
        return {**self.__dict__, "_loader": None}
