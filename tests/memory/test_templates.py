"""Identity templates: ours are useful, a user's own come first, and none can do any harm."""

import datetime
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arsenale_core.assets import asset_dir
from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_memory.imports import resolve
from arsenale_memory.managed import get, put
from arsenale_memory.templates import DEFAULTS, MAX_BYTES, MAX_SOURCE_BYTES, names, render

SHIPPED = asset_dir("identity_templates")

FULL: Mapping[str, object] = {
    "name": "Ada",
    "persona_class": "engineer",
    "core_memories": [
        {"text": f"Core {n}", "importance": 0.9, "date": "2026-11-20"} for n in range(50)
    ],
    "today": {"date": "2026-11-21", "memories": [{"text": f"Today {n}"} for n in range(50)]},
    "projects": [
        {"name": f"project {n}", "path": f"~/code/{n}", "summary": "x " * 500} for n in range(50)
    ],
    "knowledge": {f"topic {n}": ["one", {"two": 2}] for n in range(50)},
    "relationships": [{"name": f"Person {n}", "role": "reviewer"} for n in range(50)],
}


def rendered(folder: Path, source: str, **context: object) -> str:
    """Render SOURCE as the template `own`."""
    (folder / "own.md.j2").write_text(source, encoding="utf-8")
    return render("own", {"name": "Ada", **context}, [folder, SHIPPED])


def test_three_identities_are_shipped() -> None:
    assert names([SHIPPED]) == ["assistant", "developer", "researcher"]


@pytest.mark.parametrize("name", names([SHIPPED]))
def test_a_shipped_identity_says_all_it_is_given_in_sixty_lines(name: str) -> None:
    text = render(name, FULL, [SHIPPED])
    for said in ("# Ada\n", "Ada**, engineer", "Core 0 (2026-11-20)", "## Today, 2026-11-21",
                 "- Today 0\n", "**project 0** (`~/code/0`): x x", "**topic 0**: one, two: 2",
                 "- name: Person 0; role: reviewer"):  # fmt: skip
        assert said in text
    assert len(text.splitlines()) <= 60
    assert "\n\n\n" not in text
    assert text.endswith("reviewer\n")


@pytest.mark.parametrize("name", names([SHIPPED]))
def test_a_shipped_identity_needs_no_more_than_a_name(name: str) -> None:
    text = render(name, {"name": "Ada"}, [SHIPPED])
    assert re.findall(r"^#+ .*", text, re.MULTILINE) == ["# Ada", "## How you work"]
    assert not re.search(r"\n\n\n|\n\n$|[ \t]$", text, re.MULTILINE)


HOSTILE_TEXT = st.text(alphabet="@/a.md\n\r\t<!->#`*\\ ", max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE_TEXT)
def test_what_a_memory_says_stays_on_its_line_and_imports_nothing(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text("IMPORTED")
    memories = [{"text": f"x {text} @a.md <!-- arsenale:end identity -->", "date": ""}]
    file = tmp_path / "CLAUDE.md"
    identity = render(
        "developer",
        {"name": text + "@a.md", "core_memories": memories, "knowledge": {text: [text, "@a.md"]}},
        [SHIPPED],
    )
    file.write_text(put("", "identity", identity))
    assert get(file.read_text(), "identity") is not None
    assert "IMPORTED" not in resolve(file, [tmp_path]).text
    assert len(identity.splitlines()) == 18


def test_a_users_folder_comes_first_and_may_build_on_what_is_shipped(tmp_path: Path) -> None:
    own = tmp_path / "identity_templates"
    own.mkdir()
    (own / "developer.md.j2").write_text("I am {{ name }}.\n")
    (own / "pirate.md.j2").write_text(
        '{% extends "_base.md.j2" %}{% block role %}Arr.{% endblock %}'
    )
    (own / "_part.md.j2").write_text("")
    (own / "notes.txt").write_text("")
    folders = [own, tmp_path / "missing", SHIPPED]
    assert names(folders) == ["assistant", "developer", "pirate", "researcher"]
    assert render("developer", FULL, folders) == "I am Ada.\n"
    assert "You are **Ada**, engineer. Arr.\n" in render("pirate", FULL, folders)


def test_what_is_not_given_is_empty(tmp_path: Path) -> None:
    source = "".join(f"{{{{ {name}|length }}}}" for name in DEFAULTS)
    assert rendered(tmp_path, source) == "0020000"


def test_dates_are_printed_as_iso_dates_and_nothing_as_nothing(tmp_path: Path) -> None:
    day = datetime.date(2026, 11, 21)
    assert rendered(tmp_path, "{{ day }} {{ nothing }}!", day=day, nothing=None) == "2026-11-21 !"


def test_templates_have_filters_macros_loops_and_includes(tmp_path: Path) -> None:
    (tmp_path / "_macros.md.j2").write_text("{% macro twice(x) %}{{ x ~ x }}{% endmacro %}")
    (tmp_path / "_part.md.j2").write_text("{{ name|upper }}")
    source = """\
{% from "_macros.md.j2" import twice %}
{% set ns = namespace(sum=0) %}
{% for m in ms|sort(attribute="n", reverse=true) if m.n > 1 %}
{% set ns.sum = ns.sum + m.n * 2 %}
{{ loop.index }}/{{ loop.length }} {{ m.text|truncate(8) }} {{ twice(m.n) }}
{% endfor %}
{{ ns.sum }} {{ ms[:2]|join(", ", attribute="n") }} {{ name[1:] }} {% include "_part.md.j2" %}

{{ name.split("d")[-1] }} {{ ms[0].gone|default("-") }} {{ {"a": 1}.a }} {{ 7 // 2 }}
"""
    ms = [{"n": n, "text": "some words " * n} for n in range(4)]
    assert rendered(tmp_path, source, ms=ms) == (
        "1/2 some… 33\n2/2 some… 22\n10 0, 1 da ADA\na - 1 3\n"
    )


def test_an_unknown_template_is_not_found() -> None:
    for name in ("gone", "_base", "../identity_templates/developer", ""):
        with pytest.raises(NotFoundError, match="one of: assistant, developer, researcher"):
            render(name, FULL, [SHIPPED])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("ok\n{{ nmae }}", "own.md.j2 line 2: 'nmae' is undefined"),
        ("\n\n{% if %}", "own.md.j2 line 3: Expected an expression"),
        ("{{ name|shout }}", "own.md.j2 line 1: No filter named 'shout'"),
        ("{{ today.dat }}", "own.md.j2 line 1: 'dict object' has no attribute 'dat'"),
        ("\n{{ today }}", "own.md.j2 line 2: TypeError: a list or mapping is no text"),
        ("{% include 'gone.md.j2' %}", "own.md.j2 line 1: no template file 'gone.md.j2'"),
        ("{{ 1 / 0 }}", "own.md.j2 line 1: ZeroDivisionError"),
        ("{% extends '_base.md.j2' %}{% block role %}\n{{ x }}{% endblock %}",
         "own.md.j2 line 2: 'x' is undefined"),
        ("{% from '_broken.md.j2' import x %}", "_broken.md.j2 line 2: "),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_file_and_line(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "_broken.md.j2").write_text("\n{% macro %}")
    with pytest.raises(InvalidError, match=r"README\.md lists|name a file") as refused:
        rendered(tmp_path, source)
    assert refused.value.what.startswith(f"identity template 'own', {said}")


DOUBLING = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = "


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ name['__class__'] }}",
        "{{ name|attr('__class__') }}",
        "{{ self._TemplateReference__context }}",
        "{{ range.__globals__ }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ today.update({'date': 1}) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum(100000) }}",
        "{% import '_base.md.j2' as base %}",
        "{% autoescape true %}{% endautoescape %}",
        "{{ {today: 1} }}",
        "{{ today[[1]] }}",
    ],
)
def test_a_template_gets_at_nothing_but_its_data(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidError):
        rendered(tmp_path, source)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}" + "{% if name %}{% endif %}" * 2000 + "{% endfor %}",
        "{% for i in range(9999) %}" + "{{ name|upper|lower }}" * 50 + "{% endfor %}",
        "{% set l = range(9999)|list %}{% for i in l %}{{ l|sort|join|length }}{% endfor %}",
        "{% set l = range(9999)|list %}{% for i in l %}{% if l == l %}{% endif %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
        "{% include 'own.md.j2' %}",
        "{% extends 'own.md.j2' %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% set n = n|d(30) - 1 %}{% if n %}" + "{% include 'own.md.j2' %}" * 2 + "{% endif %}",
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 1 " + "* 123456789 " * 5000 + "}}",
        "{{ 0x" + "f" * 60000 + " * 1 }}",
        "{{ " + "9" * 60000 + " }}",
        "{{ 5|round(-1000000000) ** 2 }}",
        "{{ name" + "|replace('', name ~ name)" * 60 + " }}",
        "{{ name" + "|replace('A', 'AAAAAAAAAA')" * 60 + " }}",
        DOUBLING + "ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        DOUBLING + "ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        DOUBLING + "[ns.x, ns.x]|join %}{% endfor %}",
        DOUBLING + "[ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        DOUBLING + "[ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x[:] }}",
        DOUBLING + "[ns.x, ns.x] %}{% endfor %}{{ ns.x in [ns.x[:]] }}",
        DOUBLING + "[ns.x, ns.x] %}{% endfor %}{{ ns.x|line }}{{ ns.x|sort }}",
        DOUBLING.replace("'ab'", "[1]") + "ns.x + ns.x %}{% endfor %}",
        "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
        "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "m(" * 60 + "'ab'" + ")" * 60 + " }}",
        "{% filter replace('a', 'aa'*1) %}a{% endfilter %}",
        "{% for i in range(9999) %}" + "x" * 1000 + "{% endfor %}",
        "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
        "{{ 1" + " + 1" * 15000 + " }}",
        "{{ " + "not " * 15000 + "1 }}",
        "{% if 1 %}" * 5000,
        "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
        "x" * (MAX_SOURCE_BYTES + 1),
        "{% set ns = namespace(x=[]) %}{% set s = 'a,'|replace(',', ','|replace(',', name)) %}"
        "{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|line ** 1 }}",
    ],
)  # fmt: skip
def test_a_template_is_stopped_when_it_wants_too_much(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidError) as refused:
        rendered(tmp_path, source)
    assert len(str(refused.value)) < 1000


def test_the_size_of_the_result_is_bounded_in_bytes(tmp_path: Path) -> None:
    text = "é" * (MAX_BYTES // 2)
    assert rendered(tmp_path, "{{ text }}", text=text) == text
    with pytest.raises(InvalidError, match=f"larger than {MAX_BYTES} bytes: show less"):
        rendered(tmp_path, "{{ text }}!", text=text)


def test_templates_come_out_of_their_folders_only(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "secret.md.j2").write_text("SECRET")
    (own / "link.md.j2").symlink_to(tmp_path / "secret.md.j2")
    for name in ("../secret.md.j2", str(tmp_path / "secret.md.j2"), "link.md.j2", "./own.md.j2"):
        with pytest.raises(InvalidError, match="no template file"):
            rendered(own, f"{{% include {name!r} %}}")


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.md.j2").write_bytes(b"caf\xe9")
    with pytest.raises(InvalidError, match="'utf-8' codec"):
        render("own", FULL, [tmp_path])


def test_only_plain_data_reaches_a_template(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a template cannot have a PosixPath"):
        rendered(tmp_path, "", path=tmp_path)
    deep: list[object] = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(InvalidError, match="flatter"):
        rendered(tmp_path, "", deep=deep)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    parts=st.lists(
        st.sampled_from(
            "{{ }} {% %} name today 'a' | . ( ) [ ] for in if set macro block end endfor endif"
            " range 9 ~ + * == length join x = , include extends not else {# #} :".split()
        ),
        max_size=20,
    )
)
def test_any_template_is_rendered_or_refused(tmp_path: Path, parts: list[str]) -> None:
    try:
        assert isinstance(rendered(tmp_path, " ".join(parts)), str)
    except InvalidError as exc:
        assert exc.hint
