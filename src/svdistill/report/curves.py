"""Training curves: test accuracy by epoch, seeds as a band around their mean."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from svdistill.files import write_atomically
from svdistill.report.bands import band_of
from svdistill.training.run_directory import read_records


def plot_curves(runs: Iterable[tuple[str, str | Path]], output: str | Path, title: str) -> None:
    """Draw test accuracy by epoch, a line for each method, into a PNG or SVG.

    Args:
        runs: pairs of a method's name and a run directory. Several of one name are its seeds: the
            line is their mean, the band reaches from the lowest to the highest.
        output: the picture's file; its ending chooses the format.
        title: above the picture.

    Raises:
        RunError: a run without metrics, or a file that cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves: dict[str, list[list[float]]] = {}
    for method, directory in runs:
        accuracies = [record.test_accuracy for record in read_records(directory)]
        curves.setdefault(method, []).append(accuracies)
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    for method, seeds in curves.items():
        band = band_of(seeds)
        epochs = range(1, len(band.mean) + 1)
        (line,) = axes.plot(epochs, band.mean, marker=".", label=f"{method} ({band.mean[-1]:.1f})")
        if len(seeds) > 1:
            axes.fill_between(
                epochs, band.lowest, band.highest, color=line.get_color(), alpha=0.15, linewidth=0
            )
    axes.set(title=title, xlabel="epoch", ylabel="test accuracy %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    path = Path(output)
    kind = path.suffix.lstrip(".") or "png"
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format=kind))
    plt.close(figure)
