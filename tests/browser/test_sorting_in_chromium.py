"""Tables are sorted by a click on a header, and by the keyboard."""

import pytest
from looking import accuracy_table, column, header, means
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow


def test_a_click_sorts_by_the_mean_and_a_second_the_other_way(report: Chrome) -> None:
    table = accuracy_table(report)
    before = column(table, "method")
    for direction, reverse in (("descending", True), ("ascending", False)):
        header(table, "last epoch %").find_element(By.TAG_NAME, "button").click()
        numbers = means(table, "last epoch %")
        assert numbers == sorted(numbers, reverse=reverse)
        assert len(set(numbers)) == len(before)
        sorted_headers = table.find_elements(By.CSS_SELECTOR, "[aria-sort]")
        assert [one.get_attribute("aria-sort") for one in sorted_headers] == [direction]
    after = column(table, "method")
    assert after != before
    assert sorted(after) == sorted(before)


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_the_keyboard_sorts_negative_numbers_too_and_dashes_go_last(
    report: Chrome, key: str
) -> None:
    table = accuracy_table(report)
    button = header(table, "gain").find_element(By.TAG_NAME, "button")
    for reverse in (True, False):
        button.send_keys(key)
        numbers = means(table, "gain")
        assert min(numbers) < 0 < max(numbers)
        assert numbers == sorted(numbers, reverse=reverse)
        cells = column(table, "gain")
        assert cells[len(numbers) :] == ["–"] * (len(cells) - len(numbers))
    assert report.switch_to.active_element == button


def test_numbers_sort_by_value_and_not_by_digits(report: Chrome) -> None:
    table = accuracy_table(report)
    for direction in ("descending", "ascending"):
        header(table, "time of a step").find_element(By.TAG_NAME, "button").click()
        assert header(table, "time of a step").get_attribute("aria-sort") == direction
    cells = [cell for cell in column(table, "time of a step") if cell != "–"]
    ratios = [float(cell.removeprefix("× ")) for cell in cells]
    assert len(ratios) > 2
    assert ratios == sorted(ratios)


def test_names_sort_by_the_alphabet(report: Chrome) -> None:
    table = accuracy_table(report)
    header(table, "method").find_element(By.TAG_NAME, "button").click()
    names = column(table, "method")
    assert names == sorted(names, key=str.lower)
    assert header(table, "method").get_attribute("aria-sort") == "ascending"
