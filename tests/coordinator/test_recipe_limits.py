"""Templates of recipes compute with values; no method of a value makes more of it."""

import tracemalloc

import pytest

from arsenale_coordinator.recipes import templates
from arsenale_core.errors import InvalidError


@pytest.mark.parametrize(
    "text",
    [
        "{{ (5).to_bytes(2500000000, 'big') }}",
        "{{ n.to_bytes(2500000000, 'little') }}",
        "{{ true.to_bytes(2500000000, 'big') }}",
        "{{ (1.5).hex() }}",
        "{{ n.from_bytes('x', 'big') }}",
        "{{ n.__class__ }}",
        "{{ n['to_bytes'](2500000000, 'big') }}",
        "{{ items.copy() }}",
        "{{ items.__mul__(1000000000) }}",
        "{{ items.append(1) }}",
        "{{ f.as_integer_ratio() }}",
        "{{ n.real.to_bytes(2500000000, 'big') }}",
        "{{ none.__class__ }}",
        "{{ text.encode('utf-8').ljust(2500000000) }}",
        "{{ text.center(2500000000) }}",
        "{{ text.zfill(2500000000) }}",
        "{{ text.expandtabs(2500000000) }}",
        "{{ text.translate({}) }}",
        "{{ text.format(1) }}",
        "{{ (n, n).__mul__(1000000000) }}",
        "{{ range(9).__reduce__() }}",
    ],
)
def test_a_method_that_could_make_much_is_refused_before_it_does(text: str) -> None:
    names = {"n": 5, "f": 1.5, "items": [1, 2], "text": "abc"}
    tracemalloc.start()
    try:
        with pytest.raises(InvalidError):
            templates.render(text, names, path="steps[0].value")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ text.upper() }}", "ABC"), ("{{ items[0] }}", 1), ("{{ items|length }}", 2),
        ("{{ n + 1 }}", 6), ("{% for i in items %}{{ loop.index }}{% endfor %}", "12"),
        ("{{ row.real }}", "a field"), ("{{ f|round|int }}", 2),
    ],
)  # fmt: skip
def test_what_recipes_need_is_still_there(text: str, value: object) -> None:
    names = {"n": 5, "f": 1.5, "items": [1, 2], "text": "abc", "row": {"real": "a field"}}
    assert templates.render(text, names, path="steps[0].value") == value
