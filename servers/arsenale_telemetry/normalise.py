import hashlib
from dataclasses import dataclass
from typing import Literal

import orjson

from arsenale_core.events import *


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    level: Literal["minimal", "summary", "bodies"] = "summary"
    max_body_bytes: int = 32768


def normalise(raw, *, at_us, origin, capture):
    k = str(raw.get("hook_event_name"))
    ph = {"PreToolUse": "start", "PostToolUse": "end", "PostToolUseFailure": "end"}.get(k, "point")

    def P(x):
        if x is None:
            return None
        b = orjson.dumps(x, option=orjson.OPT_SORT_KEYS)
        return Payload(size_bytes=len(b), sha256=hashlib.sha256(b).digest())

    tid = raw.get("tool_use_id")
    s = str(raw.get("session_id"))
    key = hashlib.blake2b(
        "|".join([s, k, str(tid)] if tid and ph != "point" else [s, k, origin]).encode(),
        digest_size=16,
    ).digest()
    i = P(raw.get("tool_input"))
    return HookEvent(
        key=key,
        at_us=at_us,
        host="claude-code",
        kind=k,
        phase=ph,
        session=s,
        tool=raw.get("tool_name"),
        tool_use_id=tid,
        cwd=raw.get("cwd"),
        status={"PostToolUse": "ok", "PostToolUseFailure": "error"}.get(k),
        duration_us=int(raw["duration_ms"] * 1000) if "duration_ms" in raw else None,
        subject=str(raw.get("tool_input"))[:200] if i else None,
        input=i,
        output=P(raw.get("tool_response")),
        match_key=i.sha256[:16] if i else None,
    )
