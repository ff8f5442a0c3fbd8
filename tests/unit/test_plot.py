"""The plots of measurements: they are drawings, and show what was measured."""

import xml.etree.ElementTree as ET

import pytest
from bench.load import Load
from bench.performance import BARE, BWRAP, DIRECT, HTTP, plot, table
from bench.plot import COLOURS, TICKS, tick

SVG = "{http://www.w3.org/2000/svg}"
NAMES = (HTTP, DIRECT, BWRAP, BARE)


def measured() -> dict[int, dict[str, Load]]:
    return {
        clients: {
            name: Load(clients, 2.0, [float(n + number) for n in range(1, 101)])
            for number, name in enumerate(NAMES)
        }
        for clients in (1, 8)
    }


def test_each_bar_is_as_high_as_what_was_measured() -> None:
    drawing = ET.fromstring(plot(measured()))
    bars = [each for each in drawing.iter(f"{SVG}rect") if each.get("fill") == COLOURS[1]]
    heights = [float(each.get("height", "0")) for each in bars if each.get("height") != "12"]
    assert len(heights) == 4  # two panels of two groups
    assert heights[0] == heights[1] == pytest.approx(210.0 * 50 / 50)
    assert heights[2] == pytest.approx(210.0 * 100 / 125, rel=0.01)
    texts = [each.text for each in drawing.iter(f"{SVG}text")]
    assert {"1 client", "8 clients", *NAMES} <= set(texts)


def test_the_table_has_every_row() -> None:
    lines = table(measured())
    assert len(lines) == 2 + 8
    assert lines[2] == f"| 1 | {HTTP} | 50 | 50.5 ms | 99.0 ms |"


@pytest.mark.parametrize("most", [0.003, 0.9, 1.0, 5.0, 7.0, 99.0, 100.0, 101.0, 123_456.0])
def test_ticks_are_round_and_reach_the_top(most: float) -> None:
    step = tick(most)
    assert step * TICKS >= most > step * TICKS / 2.6
    assert f"{step:e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_percentiles_of_few() -> None:
    assert Load(1, 1.0, [7.0]).percentile(99) == 7.0
    assert Load(1, 1.0, []).per_second == 0.0
