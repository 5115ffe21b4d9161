"""`flowebm --version`: the versions that a result depends on, and the device that it came from."""

import platform
from collections import Counter
from importlib.metadata import version

#: Libraries whose version can change a result.
LIBRARIES = ("jax", "jaxlib", "equinox", "optax", "flowjax", "blackjax", "numpy", "scikit-learn")


def print_versions() -> None:
    """Print one line each for flowebm, Python, its libraries and the devices."""
    print(f"flowebm {version('flowebm')}")
    print(f"python {platform.python_version()} ({platform.system()} {platform.machine()})")
    for name in LIBRARIES:
        print(f"{name} {version(name)}")
    print(f"device {_devices()}")


def _devices() -> str:
    import jax

    try:
        kinds = Counter((device.platform, device.device_kind) for device in jax.devices())
    except RuntimeError as error:
        return f"none: {' '.join(str(error).split())}"
    return ", ".join(
        f"{number} x {name if name.lower() == kind else f'{name} ({kind})'}"
        for (kind, name), number in kinds.items()
    )
