"""Values that break databases, given to every parameter of every tool of a server."""

from typing import Any

from mcp import Client

TEXTS = ("a\0b", "\ud800", "x\udfffy", "\u202e", "x" * 70_000, "'; DROP TABLE task; --", "%s %(x)s",
         "{}", "null", "\x1b[2J", "\U0010ffff", "-1", "1e999", "9" * 400, "")  # fmt: skip
NUMBERS = (2**31, 2**63 - 1, 2**63, 10**30, -1, -(2**63), 1e308, 0)


def _values(schema: dict[str, Any]) -> list[Any]:
    kinds = {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
    values: list[Any] = []
    if "string" in kinds or not kinds - {None}:
        values += TEXTS
    if kinds & {"integer", "number"}:
        values += NUMBERS
    if "array" in kinds:
        values += [[text] for text in TEXTS] + [["x"] * 3_000]
    if "object" in kinds:
        values += [{text: text} for text in TEXTS if text.isprintable()] + [
            {"n": number} for number in NUMBERS
        ]
    return values


def _honest(schema: dict[str, Any]) -> Any:
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    kinds: dict[Any, Any] = {"string": "x", "integer": 1, "number": 1, "boolean": True, "array": []}
    return kinds.get(schema.get("type"), {})


async def unexpected(client: Client) -> list[str]:
    """Return what was answered with anything but a result or a refusal that says something."""
    found: list[str] = []
    for tool in (await client.list_tools()).tools:
        properties: dict[str, Any] = tool.input_schema.get("properties", {})
        needed = {name: _honest(properties[name]) for name in tool.input_schema.get("required", ())}
        for name, schema in properties.items():
            for value in _values(schema):
                try:
                    done = await client.call_tool(tool.name, needed | {name: value})
                except Exception as exc:  # noqa: BLE001  # each is a finding
                    where = f"{tool.name}({name}={value!r:.40})"
                    found.append(f"{where}: {type(exc).__name__} {str(exc)[:200]}")
                    continue
                text = str(getattr(done.content[0], "text", "")) if done.content else ""
                if done.is_error and (
                    not text or text == f"Error executing tool {tool.name}" or "Traceback" in text
                ):
                    found.append(f"{tool.name}({name}={value!r:.40}): {text[:200]}")
    return found
