"""`parallel`: signals side by side."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dynflow.errors import NodeFailed
from dynflow.language.types import PortType
from dynflow.node import Call, Member, NamesNodes, Node, NodeOptions, Output


class Parallel(Node):
    """Run signals side by side; their ports are read by their own ids."""

    type = "parallel"
    summary = "runs signals side by side; fails if a member without `on_failure` fails"
    can_answer: ClassVar[bool] = False
    group: ClassVar[bool] = True
    all_members_succeed: ClassVar[bool] = True

    class Options(NodeOptions):
        """Its members."""

        of: Annotated[list[str], NamesNodes(role="signal")] = Field(min_length=1, description="ids of signal nodes")

    ports: ClassVar[Mapping[str, PortType]] = {}

    def run(self, call: Call) -> Output:
        members = list(call.members.values())
        with ThreadPoolExecutor(len(members)) as pool:
            # Each member in its own copy of the context, so that its child runs stay under this node's.
            futures = [pool.submit(contextvars.copy_context().run, member.run) for member in members]
            try:
                results = [future.result() for future in futures]
            except BaseException:
                for member in members:
                    member.call_off()
                raise
        return _output(members, results)

    async def arun(self, call: Call) -> Output:
        members = list(call.members.values())
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(member.arun()) for member in members]
        return _output(members, [task.result() for task in running])


def _output(members: Sequence[Member], results: Sequence[Mapping[str, Any] | None]) -> Output:
    failed = [member for member, ports in zip(members, results, strict=True) if ports is None]
    if failed:
        kinds = ", ".join(f"{member.id} ({member.state.error})" for member in failed if member.state is not None)
        raise NodeFailed(f"not every member succeeded: {kinds}")
    return Output({}, degraded=any(member.state is not None and member.state.rescued for member in members))
