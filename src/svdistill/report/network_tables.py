"""Networks as tables: what each part costs, and what the seed's table says."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from svdistill.networks import NetworkDescription


def network_table(network: NetworkDescription) -> Table:
    """One network, a row for each part; taps are marked.

    Args:
        network: as `describe_network` returns it.

    Returns:
        A table for a rich console.
    """
    side = network.image_size
    table = Table(
        title=f"{network.name}, {network.num_classes} classes, width {network.width:g}, "
        f"images 3x{side}x{side}",
        caption=_caption(network),
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("part")
    table.add_column("tap")
    for heading in ("output", "parameters", "FLOPs"):
        table.add_column(heading, justify="right")
    for stage in network.stages:
        table.add_row(
            stage.path,
            "tap" if stage.is_tap else "",
            "x".join(map(str, stage.shape)),
            f"{stage.parameters:,}",
            millions(stage.flops),
        )
    table.add_section()
    table.add_row("all", "", "", f"{network.profile.parameters:,}", millions(network.profile.flops))
    if network.published is not None:
        table.add_row(
            "seed's table",
            "",
            "",
            millions(network.published.parameters, digits=2),
            millions(network.published.flops),
        )
    return table


def networks_table(networks: Sequence[NetworkDescription]) -> Table:
    """Several networks, a row for each, with the taps' shapes.

    Args:
        networks: as `describe_network` returns them.

    Returns:
        A table for a rich console.
    """
    table = Table(title="Networks (FLOPs = 2 x multiply-adds)", title_justify="left")
    table.add_column("network", no_wrap=True)
    for heading in ("parameters", "seed says", "FLOPs", "seed says"):
        table.add_column(heading, justify="right")
    table.add_column("taps")
    for network in networks:
        published = network.published
        table.add_row(
            network.name,
            millions(network.profile.parameters, digits=2),
            millions(published.parameters, digits=2) if published else "",
            millions(network.profile.flops),
            millions(published.flops) if published else "",
            " ".join("x".join(map(str, shape)) for _, shape in network.profile.taps),
        )
    return table


def millions(count: int, digits: int = 1) -> str:
    """A count in millions.

    Example:
        >>> millions(10_885_540, digits=2)
        '10.89M'
    """
    return f"{count / 1e6:.{digits}f}M"


def _caption(network: NetworkDescription) -> str:
    note = "FLOPs = 2 x multiply-adds of one image."
    if network.published is not None and network.published.deviation:
        note += f" Deviation: {network.published.deviation}."
    return note
