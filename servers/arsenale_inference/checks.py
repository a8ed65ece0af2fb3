"""What `arsenale doctor` reports of the engine: the self-test that its installation ran."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from arsenale_core import sidecar
from arsenale_core.checks import Check
from arsenale_core.config import Settings
from arsenale_inference import self_test
from arsenale_inference.engine import bindings
from arsenale_inference.installation.installer import record
from arsenale_inference.self_test import Failed, Passed

COMPILERS = ("cc", "gcc", "clang")
GPUS = ("cuda", "metal", "vulkan", "hip")


def examine(settings: Settings) -> Iterator[Check]:
    """Run the engine's self-test; report the build, and how layers are composed."""
    if find_spec("llama_cpp") is None:
        found = f"no engine; local models need one: {sidecar.NOT_INSTALLED}"
        yield Check("inference", "ok", found)
        return
    match self_test.run():
        case Failed(reason=reason):
            yield Check("inference", "fail", reason, "arsenale inference install")
        case Passed(cpu=cpu):
            yield _working(settings, cpu)


def _working(settings: Settings, cpu: str | None) -> Check:
    names = {path.name for path in bindings.libraries().glob("*ggml-*")}
    gpu = [kind for kind in GPUS if any(kind in name for name in names)]
    built = (record() or "engine").splitlines()[0]
    on = ", ".join(gpu) or "CPU only" + (f" ({cpu})" if cpu and cpu not in built else "")
    found = f"{built}; {on}; self-test passed"
    if settings.inference_gpu_layers and not gpu:
        fix = (
            "CMAKE_ARGS=-DGGML_CUDA=ON arsenale inference install --from-source, "
            "or set inference_gpu_layers = 0"
        )
        return Check("inference", "warn", f"{found}; `inference_gpu_layers` has no effect", fix)
    running = sidecar.address(settings.home)
    if running is not None:
        return Check("inference", "ok", f"{found}; sidecar at {running.url} (pid {running.pid})")
    compiler = next((each for each in COMPILERS if shutil.which(each)), None)
    composed = f"{compiler}-compiled code" if compiler else "numpy (no C compiler found)"
    return Check("inference", "ok", f"{found}; layers are composed by {composed}")
