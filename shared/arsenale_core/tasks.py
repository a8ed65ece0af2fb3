"""Background tasks that live as long as a block."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def background() -> AsyncGenerator[TaskGroup]:
    """Give a task group whose tasks are cancelled when the block ends.

    An exception of the block comes out as it is and not in a group, so that who wrote
    `except UnavailableError` around the block is right.
    """
    raised: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except BaseException as exc:  # noqa: BLE001  # raised again below, outside of the group
            raised = exc
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised
