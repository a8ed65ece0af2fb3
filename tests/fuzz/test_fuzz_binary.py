"""Parsers of foreign bytes under attack: the part `BINARY`. By hand: `make fuzz MINUTES=120`."""

from pathlib import Path

import pytest
from tests.fuzz import gate


@pytest.mark.slow
@pytest.mark.parametrize("job", gate.BINARY)
def test_no_input_breaks_the_parser(job: str, tmp_path: Path) -> None:
    gate.hold(job, tmp_path)
