"""What accelerators are busy with: NVIDIA's by the driver's own library, AMD's by what its kernel driver tells.

Starts no process, and loads the library only when it is first asked for. Where there is none, nothing is told.
"""

from __future__ import annotations

import ctypes
import glob
import os
from collections.abc import Iterator

LIBRARY = "libnvidia-ml.so.1"
DRM = "/sys/class/drm"
_TEMPERATURE_OF_CHIP = 0


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """The accelerators of this machine, in the order in which their drivers count them."""

    def __init__(self, *, library: str = LIBRARY, drm: str = DRM) -> None:
        self._library = library
        self._drm = drm
        self._nvml: ctypes.CDLL | None = None
        self._is_loaded = False

    def look(self) -> dict[str, float]:
        """Return of each ``gpuN``: ``busy`` (0 to 1), ``memory`` (bytes), ``power`` (W), ``temperature`` (°C).

        What a driver does not tell is left out.
        """
        found: dict[str, float] = {}
        for number, told in enumerate([*self._nvidia(), *self._amd()]):
            found.update((f"gpu{number}/{name}", value) for name, value in told.items())
        return found

    def _nvidia(self) -> Iterator[dict[str, float]]:
        if not self._is_loaded:
            self._is_loaded = True
            try:
                library = ctypes.CDLL(self._library)
                if library.nvmlInit_v2() == 0:
                    self._nvml = library
            except (OSError, AttributeError):  # no such driver, or one from before these calls
                return
        nvml = self._nvml
        count = ctypes.c_uint()
        if nvml is None or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return
        for number in range(count.value):
            device = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)):
                yield {}
                continue
            told: dict[str, float] = {}
            rates, memory, milliwatts, degrees = _Utilization(), _Memory(), ctypes.c_uint(), ctypes.c_uint()
            if nvml.nvmlDeviceGetUtilizationRates(device, ctypes.byref(rates)) == 0:
                told["busy"] = rates.gpu / 100
            if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0:
                told["memory"] = float(memory.used)
            if nvml.nvmlDeviceGetPowerUsage(device, ctypes.byref(milliwatts)) == 0:
                told["power"] = milliwatts.value / 1000
            if nvml.nvmlDeviceGetTemperature(device, _TEMPERATURE_OF_CHIP, ctypes.byref(degrees)) == 0:
                told["temperature"] = float(degrees.value)
            yield told

    def _amd(self) -> Iterator[dict[str, float]]:
        for busy in sorted(glob.glob(f"{self._drm}/card*/device/gpu_busy_percent"), key=_card):
            device = os.path.dirname(busy)
            files = {
                "busy": (busy, 100.0),
                "memory": (f"{device}/mem_info_vram_used", 1.0),
                "power": (_first(f"{device}/hwmon/hwmon*/power1_average"), 1e6),
                "temperature": (_first(f"{device}/hwmon/hwmon*/temp1_input"), 1e3),
            }
            numbers = {name: (_number(path), unit) for name, (path, unit) in files.items()}
            yield {name: number / unit for name, (number, unit) in numbers.items() if number is not None}


def _card(path: str) -> int:
    return int("".join(filter(str.isdigit, path.split("/card")[1].split("/", maxsplit=1)[0])) or 0)


def _first(pattern: str) -> str:
    return next(iter(sorted(glob.glob(pattern))), "")


def _number(path: str) -> float | None:
    try:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    except (OSError, ValueError):
        return None
