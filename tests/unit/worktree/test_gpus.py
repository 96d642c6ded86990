"""Accelerators, as their drivers tell of them: a library compiled here stands for NVIDIA's, files for AMD's."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cmf.worktree import gpus, usage

NVML = """
struct rates { unsigned gpu, memory; };
struct memory { unsigned long long total, free, used; };
int nvmlInit_v2(void) { return %(init)d; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned number, void **device) { *device = (void *)(long)(number + 1); return 0; }
int nvmlDeviceGetUtilizationRates(void *device, struct rates *found) { found->gpu = 25 * (long)device; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, struct memory *found) {
    found->total = 80ull << 30; found->used = (unsigned long long)(long)device << 30; return 0; }
int nvmlDeviceGetPowerUsage(void *device, unsigned *found) { *found = 123500; return (long)device == 2 ? 3 : 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *found) { *found = 40 + sensor; return 0; }
"""


def library(folder: Path, *, init: int = 0) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "these tests need a C compiler"
    source, made = folder / "nvml.c", folder / "libnvml.so"
    source.write_text(NVML % {"init": init})
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    return str(made)


def test_what_nvidias_library_tells_is_told_and_what_it_refuses_is_left_out(tmp_path: Path) -> None:
    looking = gpus.Gpus(library=library(tmp_path), drm=str(tmp_path))
    for _ in range(2):
        assert looking.look() == {
            "gpu0/busy": 0.25,
            "gpu0/memory": float(1 << 30),
            "gpu0/power": 123.5,
            "gpu0/temperature": 40.0,
            "gpu1/busy": 0.5,
            "gpu1/memory": float(2 << 30),
            "gpu1/temperature": 40.0,
        }


@pytest.mark.parametrize("has_library", [True, False])
def test_without_a_driver_nothing_is_told(tmp_path: Path, has_library: bool) -> None:
    name = library(tmp_path, init=9) if has_library else "libno-such-library.so.1"
    assert gpus.Gpus(library=name, drm=str(tmp_path)).look() == {}


def test_what_amds_driver_tells_is_told_in_the_order_of_its_cards(tmp_path: Path) -> None:
    for card, busy in ((10, 5), (2, 70)):
        device = tmp_path / f"card{card}" / "device"
        (device / "hwmon" / "hwmon3").mkdir(parents=True)
        (device / "gpu_busy_percent").write_text(f"{busy}\n")
        (device / "mem_info_vram_used").write_text("1048576\n")
    (tmp_path / "card2/device/hwmon/hwmon3/power1_average").write_text("35000000\n")
    (tmp_path / "card2/device/hwmon/hwmon3/temp1_input").write_text("51000\n")
    assert gpus.Gpus(library="libno-such-library.so.1", drm=str(tmp_path)).look() == {
        "gpu0/busy": 0.7,
        "gpu0/memory": 1048576.0,
        "gpu0/power": 35.0,
        "gpu0/temperature": 51.0,
        "gpu1/busy": 0.05,
        "gpu1/memory": 1048576.0,
    }


def test_they_are_told_with_what_else_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.Gpus.__init__, "__kwdefaults__", {"library": library(tmp_path), "drm": str(tmp_path)})
    found = usage.Usage(tmp_path, 1.0).look(2.0)
    assert found["system/gpu1/busy"] == 0.5
