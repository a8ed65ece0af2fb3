"""Addresses that somebody names: what may be asked, and what a key may be sent to."""

import pytest

from arsenale_core import endpoints
from arsenale_core.config import ChangedSetting, Settings
from arsenale_core.errors import InvalidError

KEY = "sk-a-key"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8725", "https://api.example.com/v1", "http://[::1]:80", "HTTP://Host/",
        "http://192.168.1.5:8000/v1/", "http://host.docker.internal:1", "http://[fd00::1]/",
        "http://0x7f.1/", "http://xn--bcher-kva.example",
    ],
)  # fmt: skip
def test_the_address_of_a_service_is_taken_without_its_last_slash(url: str) -> None:
    assert endpoints.checked(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest", "http://169.254.1.1", "http://[fe80::1]", "http://[fe80::1%25eth0]/",
        "http://[::ffff:169.254.169.254]/", "http://0xA9FEA9FE/", "http://2852039166/", "http://169.254.43518/",
        "http://0251.0376.0251.0376/", "http://169.254.169.254./", "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::]/", "http://[fd00:ec2::254]", "http://100.100.100.200", "http://224.0.0.1",
        "http://[ff02::1]/", "https://169.254.169.254",
    ],
)  # fmt: skip
def test_link_local_addresses_are_refused_in_every_spelling(url: str) -> None:
    with pytest.raises(InvalidError, match="link-local, multicast or metadata"):
        endpoints.checked(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:80", "ftp://host", "file:///etc/passwd", "http://", "http:///x", "gopher://h",
        "http://host:99999", "http://host:x", "http://[::1", "http://a b/", "http://a\nb/", "http://h\\@x/",
        "//host/x", "javascript:alert(1)", "http://h\x00/", "unix:/run/x.sock",
    ],
)  # fmt: skip
def test_what_is_not_an_http_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidError, match="not the address of an HTTP service"):
        endpoints.checked(url)


@pytest.mark.parametrize("url", ["http://user:password@host/", "https://key@host", "http://:p@h"])
def test_a_password_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidError, match="holds a user or password") as raised:
        endpoints.checked(url)
    assert "password@" not in str(raised.value) and "key@" not in str(raised.value)


def test_a_name_that_leads_to_a_link_local_address_is_refused_when_it_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", ("10.0.0.1", 0)), (0, 0, 0, "", ("fe80::1%eth0", 0, 0, 2))]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    assert endpoints.checked("http://metadata.example") == "http://metadata.example"
    with pytest.raises(InvalidError, match="link-local"):
        endpoints.checked("http://metadata.example", look_up=True)


@pytest.mark.parametrize(
    ("url", "goes"),
    [
        ("https://api.example.com", True), ("http://127.0.0.1:1", True), ("http://localhost", True),
        ("http://[::1]:1", True), ("http://127.9.9.9", True), ("http://a.localhost", True),
        ("http://api.example.com", False), ("http://192.168.1.5", False),
        ("http://localhost.evil.com", False),
        ("http://127.0.0.1.evil.com", False), ("http://0.0.0.0", False), ("http://10.0.0.1", False),
    ],
)  # fmt: skip
def test_a_key_goes_over_plain_http_to_this_machine_only(url: str, goes: bool) -> None:
    assert endpoints.bearer(url, None) == {}
    if goes:
        assert endpoints.bearer(url, KEY) == {"Authorization": f"Bearer {KEY}"}
    else:
        with pytest.raises(InvalidError, match="in plain text") as raised:
            endpoints.bearer(url, KEY)
        assert KEY not in str(raised.value)


def test_changed_settings_name_their_source_and_mask_secrets(tmp_path: object) -> None:
    home = str(tmp_path)
    with open(f"{home}/config.toml", "w", encoding="utf-8") as file:
        file.write('chat_key = "sk-a-key"\ndatabase_url = "postgresql://u:hidden@h/db"\n')
        file.write('log_level = "INFO"\nhttp_port = 1\n')
    settings = Settings.read({"ARSENALE_HOME": home, "ARSENALE_CHAT_URL": "http://127.0.0.1:1/v1",
                              "ARSENALE_HTTP_PORT": "2"})  # fmt: skip
    assert settings.changed() == [
        ChangedSetting("chat_key", "**********", "config.toml"),
        ChangedSetting("chat_url", "http://127.0.0.1:1/v1", "environment"),
        ChangedSetting("database_url", "postgresql://u:[redacted:password]@h/db", "config.toml"),
        ChangedSetting("http_port", "2", "environment"),
    ]
