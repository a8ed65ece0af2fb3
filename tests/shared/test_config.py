from pathlib import Path

import pytest

from arsenale_core.config import Settings
from arsenale_core.errors import InvalidError


def test_the_environment_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("http_port = 1\nidle_exit_s = 7\n", encoding="utf-8")
    settings = Settings.read({"ARSENALE_HOME": str(tmp_path), "ARSENALE_HTTP_PORT": "2"})
    assert (settings.http_port, settings.idle_exit_s, settings.retention_days) == (2, 7.0, 90)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HTTP_PORT", "soon", "http_port: Input should be a valid integer"),
        ("HTTP_HOST", "0.0.0.0", "only loopback is served"),
        ("TIMEZONE", "Mars/Olympus", "an example is Europe/Vienna"),
        ("CAPTURE", "all", "'minimal', 'summary' or 'bodies'"),
    ],
)
def test_a_value_that_does_not_parse_names_itself(
    variable: str, value: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidError, match=said):
        Settings.read({"ARSENALE_HOME": str(tmp_path), f"ARSENALE_{variable}": value})


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("http_port = = 1", encoding="utf-8")
    with pytest.raises(InvalidError, match=r"config\.toml"):
        Settings.read({"ARSENALE_HOME": str(tmp_path)})


@pytest.mark.parametrize("value", ["[" * 5_000, "{a=" * 5_000, "[[1]," * 5_000])
def test_a_file_nested_without_end_is_refused_with_its_name(tmp_path: Path, value: str) -> None:
    (tmp_path / "config.toml").write_text(f"port = {value}", encoding="utf-8")
    with pytest.raises(InvalidError, match=r"config\.toml.*nested too deeply"):
        Settings.read({"ARSENALE_HOME": str(tmp_path)})
