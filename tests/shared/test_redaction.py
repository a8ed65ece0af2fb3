import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arsenale_core.redaction import JsonValue, names_secret, redact, redact_value

SECRETS = {
    "anthropic": "sk-ant-" + "api03-abcdefghijklmnopqrstuvwx",
    "openai": "sk-proj-" + "abcdefghijklmnopqrstuvwxyz012345",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "github": "ghp_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "github-fine": "github_pat_" + "11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "gitlab": "glpat-" + "abcdefghij0123456789",
    "slack": "xoxb-" + "123456789012-abcdefghijkl",
    "stripe": "sk_live_" + "abcdefghijklmnop",
    "google": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "huggingface": "hf_" + "abcdefghijklmnopqrstuvwxyz",
    "npm": "npm_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijklmnop",
    "random": "k7Gq2ZxP9vLm4TnR8sWd3Yb6",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize("around", ["{}", "use {} now", "curl -d '{}'", 'x="{}"', "a={}&b=1"])
def test_a_known_secret_does_not_survive(secret: str, around: str) -> None:
    assert secret not in redact(around.format(secret))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("export DB_PASSWORD=hunter2", "hunter2"),
        ("mysql --password hunter2 -u root", "hunter2"),
        ("mysql --password=hunter2", "hunter2"),
        ("postgres://bob:hunter2@db.example/x", "hunter2"),
        ("Authorization: Bearer abcd1234", "abcd1234"),
        ("curl -H 'Authorization: Basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
        ('{"apiKey": "hunter2"}', "hunter2"),
        ('echo "{\\"password\\": \\"hunter2\\"}"', "hunter2"),
        ("password: 'hun ter2'", "hun ter2"),
        ("client_secret=hunter2&x=1", "hunter2"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----", "hunter2"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2 and cut off", "hunter2"),
    ],
)
def test_a_password_is_known_by_what_stands_before_it(text: str, secret: str) -> None:
    assert secret not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "/home/dev/inventory/tests/test_inventory.py",
        "toolu_59976c00010abcdefghijkl",
        "3fc088c2-2063-4c30-9dfc-2418d35928d8",
        "d670460b4b4aece5915caf5c68d12f560a9fe3e4",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "from arsenale_core.redaction import redact_value",
        "test_answers_keep_the_order_of_a_client_that_writes_before_it_reads",
        "max_tokens=4000 input_tokens: 17",
        "ThisIsALongCamelCaseIdentifierName2",
        "git commit -m 'Add password reset'",
        "basic authentication and the token is good",
        "12345678901234567890123456789012",
        "https://example.com/a/b/c?page=2",
        "def password(self) -> str: ...",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(st.text(max_size=300))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.lists(st.sampled_from([*SECRETS.values(), "password=", " ", '"', ":", "--token", "/"])))
def test_masking_secrets_twice_changes_nothing_more(parts: list[str]) -> None:
    text = "".join(parts)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "unit", ["a", "password ", "sk-", "-----BEGIN PRIVATE KEY-----", "A1b", "://", "x:", "eyJ.",
             "--token-", "authorization: ", "password=", "a.", "Bearer ", "token: '"],
)  # fmt: skip
def test_no_text_takes_more_than_linear_time(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * length)[:length]
        begun = time.perf_counter()
        redact(text)
        return time.perf_counter() - begun

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(200_000) for _ in range(2)) < 40 * small + 0.05


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)


@given(json_values)
def test_any_json_keeps_its_shape(value: JsonValue) -> None:
    clean = redact_value({"kept": value}, max_text=1000)
    assert list(json.loads(json.dumps(clean))) == ["kept"]


def test_the_value_of_a_key_that_names_a_secret_is_masked_whole() -> None:
    given_value = {"dbPassword": "x", "nested": [{"api_key": {"deep": 1}}], "max_tokens": 5}
    assert redact_value(given_value, max_text=100) == {
        "dbPassword": "[redacted:value]",
        "nested": [{"api_key": "[redacted:value]"}],
        "max_tokens": 5,
    }


def test_what_names_a_secret() -> None:
    assert all(map(names_secret, ["password", "apiKey", "GITHUB_TOKEN", "client-secret", "Cookie"]))
    assert not any(map(names_secret, ["max_tokens", "token_count", "passed", "author", "tokens"]))
