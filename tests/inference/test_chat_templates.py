"""Chat templates with what templates of well-known models use; rendered without an engine."""

import datetime
import json
from typing import Any

import pytest

from arsenale_core.errors import InvalidError
from arsenale_inference.openai_requests import Chat
from arsenale_inference.worker.templates import ChatTemplate

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather", "description": "Wetter für Ort",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}  # fmt: skip


def loop(arguments: Any, **more: Any) -> list[dict[str, Any]]:
    """A chat with an earlier call of a tool, as OpenAI's clients send it."""
    call = {"id": "call_1", "type": "function"}
    function = {"name": "weather", "arguments": arguments}
    return [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant", "content": None, "tool_calls": [{**call, "function": function}],
            **more,
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "4 °C"},
    ]  # fmt: skip


def rendered(template: str, **body: Any) -> str:
    given = {"model": "m", "messages": HELLO, **body}
    [[job]] = Chat.model_validate_json(json.dumps(given)).generate()
    return ChatTemplate(template).render(
        job.messages or (), job.tools, special={"bos_token": "<s>"}, more=job.template_kwargs
    )


PLAIN = json.dumps(TOOL, ensure_ascii=False)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for t in tools %}{{ t | tojson(ensure_ascii=False) }}{% endfor %}", PLAIN),  # GLM-4
        ("{% for t in tools %}{{ t | tojson }}{% endfor %}", PLAIN),
        ("{{ tools | tojson(separators=(',', ':')) }}",  # Kimi-K2
         json.dumps([TOOL], ensure_ascii=False, separators=(",", ":"))),
        ("{{ tools | tojson(ensure_ascii=True) }}", json.dumps([TOOL])),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=True) }}", '{"a": 2, "b": 1}'),
        ("{{ {'b': '<ü&>'} | tojson(indent=none) }}", '{"b": "<ü&>"}'),
        ("{{ [1, none, true, 1.0] | tojson }}", "[1, null, true, 1.0]"),
        ("{{ tools | map(attribute='function') | map(attribute='name') | list | tojson }}",
         '["weather"]'),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration -%}"
         "{% endfor %}", "hi"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", ""),
        ("{{ bos_token }}{{ documents is none }}{{ add_generation_prompt }}", "<s>TrueTrue"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
         "{{ ns.n }}", "1"),
        ("{{ messages[::-1][0].role }}", "user"),
        ("{{ messages[0] is mapping }}", "True"),
    ],
)  # fmt: skip
def test_what_templates_call_is_there(template: str, said: str) -> None:
    assert rendered(template, tools=[TOOL]) == said


CALLS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": ARGUMENTS}</tool_call>'
    "{% endfor %}{{ m.content }}|{% endfor %}"
)
QWEN2 = CALLS.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
QWEN3 = CALLS.replace(
    "ARGUMENTS",
    "{% for k, v in c.function.arguments | items %}<{{ k }}>{{ v }}</{{ k }}>{% endfor %}",
)
BOTH = CALLS.replace(
    "ARGUMENTS",
    "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
    "{{ c.function.arguments | tojson }}{% endif %}",
)
TEXT_ONLY = CALLS.replace("ARGUMENTS", "{{ '' + c.function.arguments }}")
DOTTED = CALLS.replace("ARGUMENTS", "{{ c.function.arguments.items() | list | length }}")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (QWEN2, '{"city": "Linz", "days": [1, 2]}'),
        (QWEN3, "<city>Linz</city><days>[1, 2]</days>"),
        (BOTH, '{"city": "Linz", "days": [1, 2]}'),
        (TEXT_ONLY, '{"city": "Linz", "days": [1, 2]}'),
        (DOTTED, "2"),
    ],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_the_arguments_of_an_earlier_call_reach_the_template_as_it_wants_them(
    template: str, said: str, as_text: bool
) -> None:
    arguments: Any = {"city": "Linz", "days": [1, 2]}
    if as_text:
        arguments = json.dumps(arguments)
    found = rendered(template, messages=loop(arguments), tools=[TOOL])
    wanted = f'Weather?|<tool_call>{{"name": "weather", "arguments": {said}}}</tool_call>|4 °C|'
    assert found == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "{}"), (None, "{}"), ("{}", "{}"), ('{"größe": "ü😀"}', '{"größe": "ü😀"}'),
        ('{"a": "\\u00e4"}', '{"a": "ä"}'), ('{"a": "\\ud800"}', '{"a": "???"}'),
        ('{"b": 1, "a": 2}', '{"b": 1, "a": 2}'), ('{"n": 1.0}', '{"n": 1.0}'),
        ("[1]", '"[1]"'), ("not JSON", '"not JSON"'), ("[" * 9_000, json.dumps("[" * 9_000)),
        ('{"n": 123456789012345678901234567890}', '{"n": 123456789012345678901234567890}'),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_arguments_of_any_form_are_rendered(arguments: Any, said: str) -> None:
    found = rendered(QWEN2, messages=loop(arguments), tools=[TOOL])
    assert f'"arguments": {said}}}' in found.replace("\ufffd\ufffd\ufffd", "???")


def test_the_form_of_a_template_is_kept_for_its_later_chats() -> None:
    template = ChatTemplate(TEXT_ONLY)
    for city in ("Linz", "Graz", "Wels"):
        said = template.render(loop(json.dumps({"city": city})), [TOOL])
        assert f'"arguments": {{"city": "{city}"}}' in said


def test_a_message_without_a_content_has_an_empty_one_and_no_key_is_null() -> None:
    template = (
        "{% for m in messages %}{{ m.content | length }},{{ m.name is defined }};{% endfor %}"
    )
    assert rendered(template, messages=loop("{}", name=None)) == "8,False;0,False;4,False;"


@pytest.mark.parametrize("given", ["reasoning_content", "thinking", "reasoning"])
def test_the_names_of_reasoning_mean_one_thing(given: str) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "4", given: "2+2"}]
    template = "{{ messages[1].reasoning_content }}|{{ messages[1].thinking }}"
    assert rendered(template, messages=messages) == "2+2|2+2"
    assert rendered("{{ messages[0].reasoning_content is defined }}", messages=messages) == "False"


THINKS = (
    "{% if enable_thinking is defined and enable_thinking is false %}no{% else %}yes{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "body", "said"),
    [
        (THINKS, {"chat_template_kwargs": {"enable_thinking": False}}, "no"),
        (THINKS, {"chat_template_kwargs": {"enable_thinking": True}}, "yes"),
        (THINKS, {}, "yes"),
        ("{{ reasoning_effort }}", {"reasoning_effort": "low"}, "low"),
        ("{{ reasoning_effort }}",
         {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}, "high"),
        ("{{ documents[0].text }}", {"documents": [{"text": "d"}]}, "d"),
        ("{{ add_generation_prompt }}",
         {"chat_template_kwargs": {"add_generation_prompt": False}}, "False"),
        ("{{ date_string }}", {"chat_template_kwargs": {"date_string": "26 Jul"}}, "26 Jul"),
        ("{{ self is defined }}{{ x }}", {"chat_template_kwargs": {"self": 1, "x": 2}}, "True2"),
        ("{{ builtin_tools | join }}", {"chat_template_kwargs": {"builtin_tools": ["a"]}}, "a"),
    ],
)  # fmt: skip
def test_chat_template_kwargs_reach_the_template(
    template: str, body: dict[str, Any], said: str
) -> None:
    assert rendered(template, **body) == said


@pytest.mark.parametrize("name", ["messages", "tools"])
def test_chat_template_kwargs_do_not_replace_the_chat(name: str) -> None:
    with pytest.raises(InvalidError, match=f"chat_template_kwargs has {name}"):
        rendered("x", chat_template_kwargs={name: []})


def test_strftime_now_is_the_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import time  # noqa: PLC0415

    monkeypatch.setenv("TZ", "Pacific/Kiritimati")  # UTC+14: another day for most of it
    time.tzset()
    try:
        there = datetime.timezone(datetime.timedelta(hours=14))
        before = datetime.datetime.now(there)
        said = rendered("{{ strftime_now('%Y-%m-%d %H') }}")
        after = datetime.datetime.now(there)
        assert said in {each.strftime("%Y-%m-%d %H") for each in (before, after)}
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('Conversation roles must alternate') }}",
         r"refuses this chat: Conversation roles must alternate: these are the template's own"),
        ("{{ messages[0].nothing.more }}", "fails on this chat: 'dict object' has no attribute"),
        ("{{ messages | from_json }}", "cannot be read .*from_json"),
        ("{% unknown %}", "cannot be read .*unknown"),
        ("{{ 1 / 0 }}", "fails on this chat: division by zero"),
        ("{{ ''.__class__.__mro__ }}", "fails on this chat: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "fails on this chat: "),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails on this chat: maximum"),
        ("{{ messages | tojson(spaces=1) }}", "fails on this chat: .*spaces"),
        ("{% generation %}x", "cannot be read"),
    ],
)  # fmt: skip
def test_an_error_has_the_template_s_own_words_and_does_not_blame_the_messages(
    template: str, said: str
) -> None:
    with pytest.raises(InvalidError, match=said) as error:
        rendered(template)
    assert "their roles" not in str(error.value) and "Error(" not in str(error.value)
