"""How many threads the calling thread's linear algebra may use: one where more would be slower, or would round otherwise."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

Setter = Callable[[int], int]


class one_thread(AbstractContextManager[None]):
    """One thread for what the calling thread does inside; a microsecond. Other threads keep theirs.

    Small factorisations are several times faster on one thread, and matrix products of several threads add in an order that depends
    on how many there are. OpenMP's number of threads belongs to the calling thread; MKL's is set for it alone, since MKL would follow
    OpenMP only until somebody calls ``torch.set_num_threads``, which sets that of all threads.
    """

    def __enter__(self) -> None:
        torch.get_num_threads()  # torch sets a thread up when it is first used, and would undo the limit
        openmp, mkl = _setters()
        self.openmp = [(library, threads) for library in openmp if (threads := library.omp_get_max_threads()) > 1]
        for library, _ in self.openmp:
            library.omp_set_num_threads(1)
        self.mkl = mkl(1)

    def __exit__(self, *error: object) -> None:
        _, mkl = _setters()
        mkl(self.mkl)
        for library, threads in self.openmp:
            library.omp_set_num_threads(threads)


@cache
def _setters() -> tuple[list[Any], Setter]:
    """The OpenMP libraries of this process, and what sets MKL's threads for the calling thread and gives the number before (0: all)."""
    from threadpoolctl import ThreadpoolController

    openmp = [library.dynlib for library in ThreadpoolController().select(user_api="openmp").lib_controllers]
    try:
        mkl = ctypes.CDLL(torch._C.__file__).MKL_Set_Num_Threads_Local  # which sees the symbols of the libraries it needs
    except (AttributeError, OSError):  # a torch without MKL
        return openmp, lambda threads: threads
    mkl.argtypes, mkl.restype = [ctypes.c_int], ctypes.c_int
    return openmp, mkl
