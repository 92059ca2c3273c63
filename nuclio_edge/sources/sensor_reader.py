"""A function of the user's that reads a device, with the bus opened for it; for a thread that may block."""

from __future__ import annotations

import os.path
from _thread import allocate_lock

from nuclio_edge.errors import SourceError
from nuclio_edge.sources.sensor_params import split_reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.sources.sensor_bus import I2cBus, SpiBus


class Reader:
    """Loads the function at the first reading, opens the bus when there is none, closes it when a reading failed.

    `read` is called by one thread at a time, `close` by any: what a read still uses is given back when it returns.
    """

    def __init__(self, name: str, params: Values, device: Any) -> None:
        self._name = name
        self._params = params
        self._device = device
        self._file, self._function = split_reader(params.reader)
        self._loaded: Any = None
        self._bus: I2cBus | SpiBus | None = None
        self._lock = allocate_lock()  # held while reading
        self._closed = False
        self.where: str = params.i2c or params.spi or params.reader

    def read(self) -> Any:
        """What the function returns; whatever it, its import or the bus raises."""
        with self._lock:
            try:
                return self._call()
            finally:
                if self._closed:
                    self._give_back()

    def _call(self) -> Any:
        if self._loaded is None:
            from nuclio_edge.functions.loader import load

            self._loaded = load(
                f"source.{self._name}",
                module=os.path.splitext(os.path.basename(self._file))[0],
                callable=self._function,
                folder=os.path.dirname(self._file),
                file=self._file,
            )
        handler: Callable[..., Any] = self._loaded.handler
        if self._params.i2c is None and self._params.spi is None:
            return handler()
        if self._bus is None:
            self._bus = self._open()
        try:
            return handler(self._bus)
        except BaseException:
            self._drop_bus()  # the adapter may have been unplugged: the next reading opens it anew
            raise

    @staticmethod
    def reason(error: BaseException) -> str:
        """What an exception is counted as."""
        return "unreadable" if isinstance(error, OSError) else "reader"

    def close(self) -> None:
        """Give the bus and the code back."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            self._give_back()
            self._lock.release()

    def _give_back(self) -> None:
        self._drop_bus()
        if self._loaded is not None:
            self._loaded.unload()
            self._loaded = None

    def _open(self) -> I2cBus | SpiBus:
        from nuclio_edge.sources.sensor_bus import I2cBus, SpiBus

        params = self._params
        if params.i2c is not None:
            return I2cBus(self._path(params.i2c, "i2c"), params.address)
        return SpiBus(self._path(params.spi, "spi"), params.spi_mode, params.spi_speed)

    def _path(self, given: str, kind: str) -> str:
        """A path as it is; else the board's bus of that name, the first path of it that exists."""
        if given.startswith("/"):
            return given
        from nuclio_edge import board
        from nuclio_edge.board_detect import GENERIC

        profile = board.load(getattr(self._device, "board", GENERIC))
        bus = getattr(profile, kind).get(given)
        if bus is None:
            raise SourceError(f"board {profile.id} has no {kind} bus {given}")
        for path in bus.paths:
            if os.path.exists(path):
                return str(path)
        raise SourceError(f"none of {', '.join(bus.paths)} is there", bus.note or None)

    def _drop_bus(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()
