"""Recipes: what they may say, what is wrong with them, and how they run, effect by effect."""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arsenale_coordinator.recipes import planning, schema, templates
from arsenale_coordinator.recipes.catalogue import Catalogue
from arsenale_coordinator.recipes.interpreter import Interpreter, Outcome, StepError
from arsenale_coordinator.recipes.schema import PersonStep, Recipe, Retry, ToolCall
from arsenale_core.errors import InvalidError, NotFoundError

ROOT = Path(__file__).parents[2]


def recipe(*steps: dict[str, Any], **more: Any) -> Recipe:
    return schema.parse(json.dumps({"name": "test", "steps": list(steps), **more}))


def call(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "tool": "fake.echo", "with": {"said": id}, **more}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "x", "steps": [{"id": "a", "tool": "m.r", "retry": {"attempts": 0}}]}',
         "steps[0].retry.attempts: Input should be greater"),
        ('{"name": "x", "steps": [{"id": "a"}]}', "steps[0]: a step has one of tool, value"),
        ('{"name": "x", "steps": [{"id": "p", "parallel": [[{"id": "a", "tool": "x"}]]}]}',
         "steps[0].parallel[0][0].tool"),
        ('{"name": "x", "steps": [{"id": "a", "tool": "m.r", "wiht": {}}]}', "steps[0].wiht"),
        ('{"name": "x", "steps": [{"id": "inputs", "value": 1}]}', "not a reserved word"),
        ("{", "no JSON"), ('{"name": "x", "steps": []}', "steps"), ("[]", "the recipe"),
        (json.dumps({"name": "x", "steps": [{"id": "a", "value": "y" * 300_000}]}), "bytes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_schema_is_named_with_its_path(text: str, said: str) -> None:
    with pytest.raises(InvalidError) as refused:
        schema.parse(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([call("a"), call("a")], "steps[1].id: 'a' is the id of steps[0] already"),
        ([call("a", when="b.output")], "steps[0]: 'b' is no input and no earlier step"),
        ([{"id": "a", "value": "{{ a.output }}"}], "'a' is no input"),
        ([{"id": "a", "value": "{{ 1 + }}"}], "steps[0].value: "),
        ([{"id": "a", "value": "{{ 'x'|center(9) }}"}], "No filter named 'center'"),
        ([{"id": "p", "parallel": [[call("a")], [call("b", when="a.output")]]}],
         "steps[0].parallel[1][0]: 'a' is no input"),
        ([{"id": "a", "tool": "fake.nope"}], "steps[0].tool: there is no 'fake.nope', there is"),
        ([{"id": "a", "tool": "fake.echo", "with": {"x": 1}}], "steps[0].with.x: fake.echo takes"),
        ([{"id": "a", "tool": "fake.echo"}], "steps[0].with: fake.echo needs 'said'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_named_with_its_path(steps: list[Any], said: str) -> None:
    tools: planning.Tools = {"fake.echo": {"properties": {"said": {}}, "required": ["said"]}}
    with pytest.raises(InvalidError) as refused:
        planning.check(recipe(*steps), tools)
    assert said in str(refused.value)


def test_inputs_are_checked_and_defaults_filled_in() -> None:
    made = recipe(
        {"id": "a", "value": 1},
        inputs={"n": {"type": "number"}, "s": {"default": "x", "required": False}},
    )
    assert planning.given(made, {"n": 2}) == {"n": 2, "s": "x"}
    for wrong, said in (({}, "'n' is missing"), ({"n": True}, "bool, not number"),
                        ({"n": 1, "q": 2}, "no input 'q'")):  # fmt: skip
        with pytest.raises(InvalidError, match=said):
            planning.given(made, wrong)


NAMES: dict[str, Any] = {"a": {"output": {"items": [1, 2], "keys": "k"}}, "inputs": {"n": 5}}


def test_a_text_that_is_one_expression_keeps_its_type_and_fields_win_over_methods() -> None:
    value = {"list": "{{ a.output.items }}", "text": "n={{ inputs.n }}", "sum": "{{ inputs.n+1 }}",
             "digits": "{{ inputs.n }}{{ inputs.n }}", "k": "{{ a.output.keys }}"}  # fmt: skip
    assert templates.render(value, NAMES, path="with") == {
        "list": [1, 2], "text": "n=5", "sum": 6, "digits": "55", "k": "k",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["{{ ''.__class__ }}", "{{ 'a' * 10000000 }}", "{{ nope }}", "{{ a.output.zzz }}",
     "{{ 2 ** 99999 }}", "{% for i in range(10000000) %}x{% endfor %}", "{{ 1 / 0 }}",
     "{{ [0] * 10000000 }}", "{{ '%1000000000d' % 1 }}", "{{ a.output.items.append(3) }}",
     "{{ self }}", "{{ cycler }}", "{% include 'x' %}", "{{ 'x'.__mul__(10**9) }}"],
)  # fmt: skip
def test_templates_reach_nothing_and_grow_nothing(text: str) -> None:
    with pytest.raises(InvalidError) as refused:
        templates.render(text, NAMES, path="steps[0].with")
    assert str(refused.value).startswith("steps[0].with: ")


class Crash(BaseException):
    """The process was killed."""


class Journal:
    """Makes effects as the engine does: what is in the journal is not made again."""

    def __init__(self, crash_after: int | None = None) -> None:
        self.done: dict[str, Any] = {}
        self.made: list[str] = []
        self.fails: dict[str, str] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.crash_after = crash_after

    async def _once(self, path: str, effect: Callable[[], Awaitable[Outcome]]) -> Outcome:
        if path not in self.done:
            if self.crash_after is not None and len(self.done) >= self.crash_after:
                raise Crash
            self.made.append(path)
            self.done[path] = await effect()
        return self.done[path]

    async def call(
        self, path: str, step: str, call: ToolCall, arguments: Mapping[str, Any], retry: Retry,
        timeout_s: float,
    ) -> Outcome:  # fmt: skip
        async def effect() -> Outcome:
            if step in self.fails and ".compensate" not in path:
                return Outcome(error=self.fails[step])
            return Outcome(value={"tool": call.tool, **arguments})

        return await self._once(path, effect)

    async def ask(self, path: str, step: PersonStep, question: str) -> Outcome:
        async def effect() -> Outcome:
            return Outcome(value={"by": "me", "note": question, **self.answers[step.id]})

        return await self._once(path, effect)

    async def sleep(self, path: str, step: str, seconds: float) -> Outcome:
        async def effect() -> Outcome:
            return Outcome(value=seconds)

        return await self._once(path, effect)

    async def note(self, path: str, step: str, state: str, value: Any = None) -> None:
        pass

    async def branch(self, path: str, memory: Mapping[str, Any]) -> Any:
        assert self.recipe is not None
        inner = Interpreter(self.recipe, {"id": "r"}, self.inputs, self)
        plain = json.loads(json.dumps(memory))  # as it is written down

        class Handle:
            async def result(self) -> dict[str, Any]:
                return json.loads(json.dumps(await inner.branch(path, plain)))

        return Handle()

    recipe: Recipe | None = None
    inputs: Mapping[str, Any] = {}

    async def run(self, recipe: Recipe, **inputs: Any) -> Any:
        self.recipe, self.inputs = recipe, inputs
        planning.check(recipe)
        return await Interpreter(recipe, {"id": "r"}, inputs, self).whole()


async def test_steps_see_what_earlier_ones_gave_and_skipped_ones_give_nothing() -> None:
    made = recipe(
        {"id": "a", "tool": "fake.echo", "with": {"n": "{{ inputs.n }}"}},
        {"id": "b", "value": "{{ a.output.n * 2 }}"},
        {"id": "c", "tool": "fake.echo", "when": "b.output > 100"},
        {"id": "d", "value": {"c": "{{ c.state }}", "b": "{{ steps.b.output }}"}},
        inputs={"n": {"type": "number"}},
    )
    journal = Journal()
    assert await journal.run(made, n=21) == {"c": "skipped", "b": 42}
    assert journal.made == ["steps[0]"]


async def test_branches_run_at_once_and_what_they_gave_is_known_after() -> None:
    made = recipe(
        {"id": "p", "parallel": [[call("a"), {"id": "a2", "value": "{{ a.output.said }}2"}],
                                 [call("b")]]},
        {"id": "both", "value": "{{ a2.output }}{{ b.output.said }}"},
    )  # fmt: skip
    assert await Journal().run(made) == "a2b"


async def test_a_background_step_is_awaited_where_it_is_referred_to_or_at_the_end() -> None:
    made = recipe(
        call("slow", background=True), call("other"), call("use", when="slow.state == 'done'"),
        call("last", background=True), output="{{ use.output.said }}",
    )  # fmt: skip
    journal = Journal()
    assert await journal.run(made) == "use"
    assert journal.made == ["steps[1]", "steps[0]", "steps[2]", "steps[3]"]
    failing = Journal()
    failing.fails = {"last": "broken"}
    with pytest.raises(StepError, match="'last'"):
        await failing.run(made)


async def test_for_each_calls_once_an_item() -> None:
    made = recipe(
        {"id": "e", "tool": "fake.echo", "for_each": "inputs.names", "at_once": 2,
         "with": {"said": "{{ index }}:{{ item }}"}},
        output="{{ e.output|map(attribute='said')|list }}",
        inputs={"names": {"type": "array"}},
    )  # fmt: skip
    assert await Journal().run(made, names=["x", "y", "z"]) == ["0:x", "1:y", "2:z"]
    assert await Journal().run(made, names=[]) == []
    with pytest.raises(StepError, match="not a list"):
        await Journal().run(made, names=7)


async def test_what_was_done_is_undone_last_first_when_a_later_step_fails() -> None:
    undo = {"tool": "fake.undo", "with": {"what": "{{ a.output.said }}"}}
    made = recipe(
        call("a", compensate=undo),
        {"id": "p", "parallel": [[call("b", compensate={"tool": "fake.undo"})],
                                 [call("c", compensate={"tool": "fake.undo"}), call("bad")]]},
    )  # fmt: skip
    journal = Journal()
    journal.fails = {"bad": "no"}
    with pytest.raises(StepError, match=r"step 'bad' \(steps\[1\].parallel\[1\]\[1\]\) failed: no"):
        await journal.run(made)
    undone = [path for path in journal.made if ".compensate" in path]
    assert [path.split(".compensate")[0] for path in undone] == [
        "steps[1].parallel[1][0]", "steps[1].parallel[0][0]", "steps[0]",
    ]  # fmt: skip
    assert journal.done[undone[-1]].value == {"tool": "fake.undo", "what": "a"}


async def test_an_error_that_is_allowed_goes_on_and_can_be_asked_for() -> None:
    made = recipe(
        call("a", on_error="continue"), {"id": "b", "value": "{{ a.state }}: {{ a.error }}"}
    )
    journal = Journal()
    journal.fails = {"a": "oh"}
    assert await journal.run(made) == "failed: oh"


async def test_a_person_who_rejects_ends_the_run_or_not() -> None:
    ask = {"id": "ok", "ask": "ship {{ inputs.v }}?"}
    made = recipe(ask, call("ship"), inputs={"v": {}})
    journal = Journal()
    journal.answers = {"ok": {"approved": False}}
    with pytest.raises(StepError, match="me rejected it: ship 7"):
        await journal.run(made, v="7")
    soft = recipe({**ask, "on_reject": "continue"}, call("ship", when="ok.output.approved"),
                  output="{{ ship.state }}", inputs={"v": {}})  # fmt: skip
    again = Journal()
    again.answers = {"ok": {"approved": False}}
    assert await again.run(soft, v="7") == "skipped"


STEPS = st.recursive(
    st.sampled_from(["tool", "value", "background", "each", "failing"]),
    lambda inner: st.lists(st.lists(inner, min_size=1, max_size=2), min_size=1, max_size=2),
    max_leaves=6,
)


def built(kinds: list[Any], prefix: str = "s") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i, kind in enumerate(kinds):
        id = f"{prefix}{i}"
        if isinstance(kind, list):
            branches = [built(branch, f"{id}_{j}_") for j, branch in enumerate(cast("Any", kind))]
            found.append({"id": id, "parallel": branches})
        elif kind == "value":
            found.append({"id": id, "value": f"{{{{ inputs.n }}}}-{i}"})
        elif kind == "each":
            found.append(call(id, for_each="[1, 2, 3]", compensate={"tool": "fake.undo"}))
        else:
            found.append(call(id, background=kind == "background",
                              compensate={"tool": "fake.undo"},
                              on_error="continue" if kind == "failing" else "fail"))  # fmt: skip
    return found


@settings(deadline=None)  # a machine may be busy
@given(st.lists(STEPS, min_size=1, max_size=4), st.booleans())
async def test_killed_before_any_effect_a_run_ends_alike_and_makes_each_effect_once(
    kinds: list[Any], fails: bool
) -> None:
    steps = built(kinds)
    made = recipe(*steps, *([call("bad")] if fails else []), inputs={"n": {"type": "number"}})

    def fresh() -> Journal:
        journal = Journal()
        journal.fails = {"bad": "no"} | {s["id"]: "x" for s in steps if s.get("on_error")}
        return journal

    whole = fresh()
    expected = await outcome(whole, made)
    journal = fresh()
    for kill_after in range(len(whole.done) + 1):
        journal.crash_after = kill_after
        try:
            found = await outcome(journal, made)
        except Crash:
            continue
        assert found == expected
    assert sorted(journal.made) == sorted(whole.made)
    assert len(set(journal.made)) == len(journal.made)


async def outcome(journal: Journal, made: Recipe) -> str:
    try:
        return json.dumps(await journal.run(made, n=1))
    except StepError as exc:
        return str(exc)


def test_a_recipe_is_run_by_the_name_of_its_file_and_a_wrong_one_says_why(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "recipes")
    made = recipe({"id": "a", "value": 1})
    assert catalogue.save(made).name == "test.json"
    assert catalogue.get("test") == made
    (tmp_path / "recipes" / "bad.json").write_text('{"name": "bad"}', encoding="utf-8")
    (tmp_path / "recipes" / "other.json").write_text(schema.dumped(made), encoding="utf-8")
    faults = {entry.name: entry.fault for entry in catalogue.entries()}
    assert faults["test"] == "" and "steps: Field required" in faults["bad"]
    assert "holds a recipe called 'test'" in faults["other"]
    with pytest.raises(NotFoundError, match="there are: "):
        catalogue.get("nope")


def test_every_recipe_that_comes_along_is_right() -> None:
    shipped = Catalogue(Path("/nowhere")).entries()
    assert shipped
    assert {entry.name: entry.fault for entry in shipped if entry.fault} == {}


def test_the_published_schema_is_the_one_that_is_checked() -> None:
    published = json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))
    assert published == schema.json_schema()


async def test_waiting_for_nobody_ends() -> None:
    with anyio.fail_after(5):
        assert await Journal().run(recipe({"id": "z", "sleep_s": "{{ 1 + 1 }}"})) == 2.0


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("ok: {{ yes }}", "ok: true"),
        ("ok: {{ no }}, {{ nothing }}", "ok: false, null"),
        ("{{ 1 == 2 }}.", "false."),
        ("is {{ false }} {{ none }}", "is false null"),
        ("{{ 'a' ~ yes ~ nothing }}!", "atruenull!"),
        ("got {{ item }}", 'got {"ok": true, "error": null, "tags": ["ä", false]}'),
        ("got {{ item.tags }}", 'got ["ä", false]'),
        ("got {{ item.tags | join('-') }}", "got ä-false"),
        ("got {{ [yes, nothing] | join(', ') }}", "got true, null"),
        ("got {{ no | string }}", "got false"),
        ("got {{ nothing | upper }}, {{ yes | lower }}", "got NULL, true"),
        ("got {{ nothing | default('-') }} {{ nothing | default('-', true) }}", "got null -"),
        ("got {{ items | map(attribute='ok') }}", "got [true, false]"),
        ("got {{ range(3) }}", "got [0, 1, 2]"),
        ("{% if no == false %}{{ no }}{% endif %}", "false"),
        ("n {{ 3 }} {{ 2.5 }} {{ 'None' }}", "n 3 2.5 None"),
        ("{{ item | tojson }};", '{"error": null, "ok": true, "tags": ["\\u00e4", false]};'),
    ],
)
def test_a_text_shows_values_as_json_and_never_as_python(text: str, rendered: str) -> None:
    names = {
        "yes": True, "no": False, "nothing": None,
        "item": {"ok": True, "error": None, "tags": ["ä", False]},
        "items": [{"ok": True}, {"ok": False}],
    }  # fmt: skip
    assert templates.render(text, names, path="with") == rendered


def test_a_text_that_shows_nothing_is_not_true() -> None:
    for text in ("{{ nothing }}", " {{ no }} ", "{{ nothing }} ", "{{ yes }}x"):
        names = {"yes": True, "no": False, "nothing": None}
        assert templates.truth(text, names, path="when") is text.endswith("x")
