"""How telemetry is put together: by the server, and by the command line."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from zoneinfo import ZoneInfo

from arsenale_core.config import Settings
from arsenale_telemetry.drain import Drain
from arsenale_telemetry.normalise import Capture
from arsenale_telemetry.service import Telemetry
from arsenale_telemetry.spool import Spool
from arsenale_telemetry.store import TelemetryStore


@contextmanager
def opened(settings: Settings, now: Callable[[], float]) -> Generator[Telemetry]:
    """Open the store and the spool; nothing drains yet."""
    zone = ZoneInfo(settings.timezone) if settings.timezone else None
    with TelemetryStore(settings.database_url or settings.home, zone) as store:
        spool = Spool(settings.home / "spool")
        drain = Drain(
            spool,
            store,
            capture=Capture(level=settings.capture, max_body_bytes=settings.capture_max_bytes),
            max_bytes=settings.spool_max_bytes,
            step_ms=settings.drain_step_ms,
            now=now,
        )
        yield Telemetry(
            store=store,
            spool=spool,
            drain=drain,
            zone=zone,
            retention_days=settings.retention_days,
            now=now,
        )
