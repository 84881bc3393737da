"""The options of `svdistill bench`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from svdistill.common import ArgumentError, require_choice

BENCHMARKS = ("svd", "dfv", "step", "growth")

COMMON = {"batch_size", "rounds", "threads", "device", "output"}

READ = {
    "svd": COMMON | {"network", "width", "teacher", "data"},
    "dfv": COMMON,
    "step": COMMON | {"network", "width", "data"},
    "growth": (COMMON - {"batch_size"}) | {"network", "width", "data"},
}


@dataclass(frozen=True)
class BenchConfig:
    """Options of a benchmark.

    Attributes:
        network: `vgg`, `mobilenet` or `all`: the paper's teacher with its student; with `all`,
            `growth` runs `vgg` alone. `dfv` reads neither this option nor `width` and `data`.
        width: factor on the networks' channels.
        batch_size: images in a step; not for `growth`.
        rounds: number of times that everything is timed.
        threads: number of torch's threads; unchanged if not given.
        device: `auto`, `cpu` or `cuda`.
        teacher: run directory or .safetensors file whose feature maps to decompose (`svd`);
            freshly initialised networks if not given.
        data: images to run on, as for `train`; noise if not given.
        output: the JSON file; `benchmarks/results/NAME.json` if not given.
    """

    network: str = "all"
    width: float = 1.0
    batch_size: int = 128
    rounds: int = 10
    threads: int | None = None
    device: str = "auto"
    teacher: str | None = None
    data: str | None = None
    output: str | None = None


def require_read(what: str, config: BenchConfig) -> None:
    """Raise unless the benchmark `what` exists and reads every option that was given.

    Raises:
        ArgumentError: there is no such benchmark, or it does not read a given option.

    Example:
        >>> require_read("dfv", BenchConfig(rounds=3))
    """
    require_choice("what", what, BENCHMARKS)
    for field in fields(config):
        given = getattr(config, field.name)
        if given != field.default and field.name not in READ[what]:
            raise ArgumentError(
                field.name,
                expected=f"no such option for `bench {what}`",
                got=repr(given),
                remedy="leave it out",
            )
