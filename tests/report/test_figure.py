import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from made_runs import texts
from svdistill.report.figure import (
    ALONE,
    LINE_STYLES,
    draw_band,
    draw_level,
    epoch_axis,
    new_drawing,
    plain,
    styled,
    to_svg,
)


def drawn(values: tuple[float, ...] = (1.0, 3.0, 2.0)) -> Drawing:
    """What the report and the manual draw: lines, bands, a legend, a heat map."""
    drawing = new_drawing(6, 3)
    left, right = drawing.subplots(1, 2)
    plain(left)
    points = [(value - 1, value, value + 1) for value in values]
    draw_band(left, range(1, 4), points, LINE_STYLES[0], "a < b & c")
    left.legend(frameon=False)
    right.imshow(np.arange(6).reshape(2, 3), interpolation="none")
    return drawing


def ids(svg: str) -> list[str]:
    return [
        element.attrib["id"]
        for element in ElementTree.fromstring(svg).iter()
        if "id" in element.attrib
    ]


def test_it_is_one_svg_element_that_says_what_it_shows() -> None:
    svg = to_svg(drawn(), 'two "lines" < three')
    root = ElementTree.fromstring(svg)
    assert svg.startswith("<svg ")
    assert root.tag.endswith("svg")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'two "lines" < three'
    assert root.attrib["width"] == "100%"
    assert root.attrib["viewBox"] == "0 0 432 216"
    assert "height" not in root.attrib


def test_text_stays_text_and_sheets_and_metadata_are_left_out() -> None:
    svg = to_svg(drawn(), "alt")
    assert "a < b & c" in texts(svg)
    assert not re.search("<style|<metadata|<!DOCTYPE|DejaVu", svg)


def test_black_follows_the_page_and_nothing_is_white() -> None:
    svg = to_svg(drawn(), "alt")
    assert "currentColor" in svg
    assert not re.search("#000000|#ffffff", svg, re.IGNORECASE)
    assert LINE_STYLES[0].colour.lower() in svg


def test_pictures_share_no_id_and_refer_to_their_own() -> None:
    first = to_svg(drawn(), "alt")
    second = to_svg(drawn((1.0, 2.0, 3.0)), "other alt")
    for svg in (first, second):
        own = ids(svg)
        assert len(set(own)) == len(own)
        references = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', svg)
        assert references
        assert {clip or link for clip, link in references} <= set(own)
    assert not set(ids(first)) & set(ids(second))


def test_the_same_drawing_gives_the_same_text() -> None:
    assert to_svg(drawn(), "alt") == to_svg(drawn(), "alt")


def test_heat_maps_are_small_pictures_of_one_pixel_a_cell() -> None:
    svg = to_svg(drawn(), "alt")
    (image,) = (e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("image"))
    assert (image.attrib["width"], image.attrib["height"]) == ("3", "2")
    assert re.fullmatch(r"data:image/png;base64,[\w+/]+=*", image.attrib["href"])


def test_rows_differ_in_more_than_colour() -> None:
    styles = styled([f"row {place}" for place in range(7)])
    assert len({style.colour for style in styles.values()}) == 7
    assert len({style.marker for style in styles.values()}) == 7
    assert styled(["SVD", "student alone"])["student alone"] not in styles.values()


def test_a_band_has_the_means_and_all_values() -> None:
    points = np.random.default_rng(0).random((5, 7))
    axes = new_drawing(4, 3).subplots()
    draw_band(axes, range(5), points.tolist(), LINE_STYLES[0], "SVD")
    np.testing.assert_allclose(axes.lines[0].get_ydata(), points.mean(1))
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (points.min(), points.max())


def test_rows_beyond_the_styles_differ_in_their_dashes() -> None:
    styles = list(styled([f"row {place}" for place in range(3 * len(LINE_STYLES))]).values())
    assert len(set(styles)) == len(styles)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 24, 200])
def test_axes_of_epochs_show_whole_epochs(epochs: int) -> None:
    drawing = new_drawing(4, 3)
    axes = drawing.subplots()
    axes.plot(range(1, epochs + 1), range(epochs))
    epoch_axis(axes)
    drawing.draw_without_rendering()
    assert len(axes.get_xticks()) >= 1
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_levels_differ_in_their_dashes() -> None:
    drawing = new_drawing(4, 3)
    axes = drawing.subplots()
    for place in range(3):
        draw_level(axes, 50 + place, f"teacher {place}", place)
    svg = to_svg(drawing, "alt")
    assert len(set(re.findall("stroke-dasharray: ([^;]+)", svg))) == 3


def test_a_line_of_one_point_is_visible() -> None:
    drawing = new_drawing(4, 3)
    axes = drawing.subplots()
    draw_band(axes, [1], [(2.0,)], ALONE, "student alone")
    assert axes.lines[0].get_marker() == "."
