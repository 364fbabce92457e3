"""Handles for what an agent carries: nodes, cgroups, processes, maps. Each method is one call."""

import contextlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import grpc

from bpfleet.abi.bpf import MapType, ProgType
from bpfleet.client.session import CallError, Session, new_request_id, raise_typed
from bpfleet.rpc import names
from bpfleet.rpc.rlimits import resource_limit_message
from bpfleet.v1 import (
    bpf_pb2,
    bpf_service_pb2,
    bpf_service_pb2_grpc,
    cgroup_service_pb2,
    cgroup_service_pb2_grpc,
    event_pb2,
    node_service_pb2,
    node_service_pb2_grpc,
    process_service_pb2,
    process_service_pb2_grpc,
)

__all__ = ["AgentClient", "Cgroup", "Map", "Node", "Process", "SyscallStream"]


class AgentClient:
    """Calls to one node agent."""

    def __init__(self, session: Session) -> None:
        self.session: Final = session
        self.bpf: Final = bpf_service_pb2_grpc.BpfServiceStub(session.channel)
        self.cgroups: Final = cgroup_service_pb2_grpc.CgroupServiceStub(session.channel)
        self.nodes: Final = node_service_pb2_grpc.NodeServiceStub(session.channel)
        self.processes: Final = process_service_pb2_grpc.ProcessServiceStub(session.channel)

    def node(self, node: str) -> "Node":
        """A handle for a node that exists; the first call on it tells if it does not."""
        return Node(self, names.node_id(node))

    def list_nodes(self) -> Iterator[node_service_pb2.Node]:
        """Every node of the agent, by id."""
        request = node_service_pb2.ListNodesRequest(page_size=1000)
        for page in self.session.pages(self.nodes.ListNodes, request):
            yield from page.nodes

    def create_node(
        self,
        node: str,
        *,
        profile: str = "6.12",
        profile_file: str = "",
        ram_bytes: int = 8 << 30,
        swap_bytes: int = 0,
        possible_cpus: int = 4,
        seed: int = 0,
    ) -> "Node":
        """Boots a node; ``profile_file`` is the text of a profile file, in place of a profile's name."""
        request = node_service_pb2.CreateNodeRequest(
            node=node,
            spec=node_service_pb2.NodeSpec(
                profile="" if profile_file else profile,
                profile_file=profile_file,
                ram_bytes=ram_bytes,
                swap_bytes=swap_bytes,
                possible_cpus=possible_cpus,
                seed=seed,
            ),
            request_id=new_request_id(),
        )
        self.session.call(self.nodes.CreateNode, request, repeatable=True)
        return self.node(node)


class Node:
    """One emulated node."""

    def __init__(self, client: AgentClient, node_id: str) -> None:
        self.client: Final = client
        self.session: Final = client.session
        self.node_id: Final = node_id
        self.name: Final = names.node_name(node_id)

    def info(self) -> node_service_pb2.Node:
        """What it is and how it is doing."""
        request = node_service_pb2.GetNodeRequest(name=self.name)
        return self.session.call(self.client.nodes.GetNode, request, repeatable=True).node

    def delete(self) -> None:
        """Switches it off for good."""
        request = node_service_pb2.DeleteNodeRequest(name=self.name)
        self.session.call(self.client.nodes.DeleteNode, request)

    def create_cgroup(self, path: str, files: Mapping[str, str] | None = None) -> "Cgroup":
        """mkdir(2), then writes ``files`` such as ``{"memory.max": "64M"}``; all or nothing."""
        request = cgroup_service_pb2.CreateCgroupRequest(node=self.name, path=path)
        self.session.call(self.client.cgroups.CreateCgroup, request)
        cgroup = self.cgroup(path)
        try:
            for file, text in (files or {}).items():
                cgroup.write(file, text)
        except CallError:
            with contextlib.suppress(CallError):
                cgroup.delete()
            raise
        return cgroup

    def cgroup(self, path: str) -> "Cgroup":
        """A handle for a cgroup that exists."""
        return Cgroup(self, path)

    def list_cgroups(self) -> Iterator[cgroup_service_pb2.Cgroup]:
        """Every cgroup, by path."""
        request = cgroup_service_pb2.ListCgroupsRequest(node=self.name, page_size=1000)
        for page in self.session.pages(self.client.cgroups.ListCgroups, request):
            yield from page.cgroups

    def create_process(
        self,
        *,
        uid: int = 0,
        cgroup: str = "/",
        memlock_bytes: int | None = None,
        capabilities: Sequence[str] | None = None,
        oom_score_adj: int = 0,
        comm: str = "script",
    ) -> "Process":
        """Starts a process. ``memlock_bytes`` None is the kernel's default; ``capabilities`` None those of its user."""
        modes = process_service_pb2.Credentials
        request = process_service_pb2.CreateProcessRequest(
            node=self.name,
            credentials=process_service_pb2.Credentials(
                uid=uid,
                capability_mode=(
                    modes.CAPABILITY_MODE_UNSPECIFIED
                    if capabilities is None
                    else modes.CAPABILITY_MODE_EXPLICIT
                ),
                capabilities=capabilities or (),
            ),
            cgroup=cgroup,
            memlock=(
                resource_limit_message(memlock_bytes, memlock_bytes)
                if memlock_bytes is not None
                else None
            ),
            oom_score_adj=oom_score_adj,
            comm=comm,
            request_id=new_request_id(),
        )
        stub = self.client.processes
        answer = self.session.call(stub.CreateProcess, request, repeatable=True)
        return Process(self, answer.process.pid)

    def process(self, pid: int) -> "Process":
        """A handle for a process that lives."""
        return Process(self, pid)

    def list_processes(self) -> Iterator[process_service_pb2.Process]:
        """Every process that lives, by id."""
        request = process_service_pb2.ListProcessesRequest(node=self.name, page_size=1000)
        for page in self.session.pages(self.client.processes.ListProcesses, request):
            yield from page.processes

    def list_maps(self) -> Iterator[bpf_pb2.MapInfo]:
        """Every map, by id; the view of the emulator, which needs no privilege."""
        caller = bpf_pb2.Caller(node=self.name)
        request = bpf_service_pb2.ListMapsRequest(caller=caller, page_size=1000)
        for page in self.session.pages(self.client.bpf.ListMaps, request):
            yield from page.maps

    def list_programs(self) -> Iterator[bpf_pb2.ProgramInfo]:
        """Every program, by id; the view of the emulator, which needs no privilege."""
        caller = bpf_pb2.Caller(node=self.name)
        request = bpf_service_pb2.ListProgramsRequest(caller=caller, page_size=1000)
        for page in self.session.pages(self.client.bpf.ListPrograms, request):
            yield from page.programs

    def ledger(self) -> Iterator[node_service_pb2.LedgerLine]:
        """What each owner is charged for."""
        request = node_service_pb2.ListLedgerLinesRequest(name=self.name, page_size=1000)
        for page in self.session.pages(self.client.nodes.ListLedgerLines, request):
            yield from page.lines

    def orphans(self) -> Iterator[node_service_pb2.Orphan]:
        """Maps charged to cgroups that are gone, and maps that only a pin keeps alive."""
        request = node_service_pb2.ListOrphansRequest(name=self.name, page_size=1000)
        for page in self.session.pages(self.client.nodes.ListOrphans, request):
            yield from page.orphans

    def tool_views(self, path: str = "/") -> list[node_service_pb2.ToolView]:
        """What each tool would say about a cgroup's memory, and what that leaves out."""
        request = node_service_pb2.GetToolViewsRequest(name=self.name, path=path)
        answer = self.session.call(self.client.nodes.GetToolViews, request, repeatable=True)
        return list(answer.views)

    def read_proc(self, file: str, pid: int = 0) -> str:
        """The text of a file in /proc; of the node where ``pid`` is 0."""
        request = process_service_pb2.ReadProcFileRequest(node=self.name, pid=pid, file=file)
        return self.session.call(
            self.client.processes.ReadProcFile, request, repeatable=True
        ).content

    def advance(self, duration_ns: int) -> int:
        """Lets virtual time pass; returns the new time."""
        request = node_service_pb2.AdvanceClockRequest(name=self.name, duration_ns=duration_ns)
        return self.session.call(self.client.nodes.AdvanceClock, request).clock_ns

    def run_deferred(self) -> int:
        """Runs all deferred work now; returns how many pieces ran."""
        request = node_service_pb2.RunDeferredWorkRequest(name=self.name)
        return self.session.call(self.client.nodes.RunDeferredWork, request).work_count

    def inject_fault(self, kind: str, nth: int = 1) -> None:
        """Makes the ``nth`` allocation of a kind fail; ``crash`` stops the node."""
        request = node_service_pb2.InjectFaultRequest(name=self.name, kind=kind, nth=nth)
        self.session.call(self.client.nodes.InjectFault, request)

    def list_events(self, start_revision: int | None = None) -> Iterator[event_pb2.Event]:
        """The log, oldest first."""
        request = node_service_pb2.ListEventsRequest(
            name=self.name, start_revision=start_revision, page_size=1000
        )
        for page in self.session.pages(self.client.nodes.ListEvents, request):
            yield from page.events

    def watch(
        self, start_revision: int | None = None, kinds: Sequence[str] = ()
    ) -> Iterator[node_service_pb2.WatchEventsResponse]:
        """Events as they happen, until the node or the session ends. Raises ``CallError``.

        To resume, start at the revision of the last answer plus 1.
        """
        request = node_service_pb2.WatchEventsRequest(
            name=self.name, start_revision=start_revision, kinds=kinds
        )
        try:
            yield from self.client.nodes.WatchEvents(request)
        except grpc.RpcError as error:
            raise_typed(error)


class Cgroup:
    """One cgroup of a node."""

    def __init__(self, node: Node, path: str) -> None:
        self.node: Final = node
        self.path: Final = path

    def read(self, file: str) -> str:
        """The text of a control file, for example ``memory.current``."""
        request = cgroup_service_pb2.ReadControlFileRequest(
            node=self.node.name, path=self.path, file=file
        )
        stub = self.node.client.cgroups
        return self.node.session.call(stub.ReadControlFile, request, repeatable=True).content

    def write(self, file: str, text: str) -> None:
        """Writes a control file, for example ``memory.max``."""
        request = cgroup_service_pb2.WriteControlFileRequest(
            node=self.node.name, path=self.path, file=file, content=text
        )
        self.node.session.call(self.node.client.cgroups.WriteControlFile, request)

    def info(self) -> cgroup_service_pb2.Cgroup:
        """Its counters."""
        request = cgroup_service_pb2.GetCgroupRequest(node=self.node.name, path=self.path)
        stub = self.node.client.cgroups
        return self.node.session.call(stub.GetCgroup, request, repeatable=True).cgroup

    def delete(self) -> None:
        """rmdir(2)."""
        request = cgroup_service_pb2.DeleteCgroupRequest(node=self.node.name, path=self.path)
        self.node.session.call(self.node.client.cgroups.DeleteCgroup, request)


class Process:
    """One process of a node."""

    def __init__(self, node: Node, pid: int) -> None:
        self.node: Final = node
        self.pid: Final = pid
        self.caller: Final = bpf_pb2.Caller(node=node.name, pid=pid)

    def info(self) -> process_service_pb2.Process:
        """Who it is and what it uses."""
        request = process_service_pb2.GetProcessRequest(
            name=names.process_name(self.node.node_id, self.pid)
        )
        stub = self.node.client.processes
        return self.node.session.call(stub.GetProcess, request, repeatable=True).process

    def create_map(
        self,
        map_type: str | MapType,
        *,
        key_size: int,
        value_size: int,
        max_entries: int,
        map_flags: int = 0,
        name: str = "",
        inner: "Map | None" = None,
        map_extra: int = 0,
    ) -> "Map":
        """BPF_MAP_CREATE. ``map_type`` is bpftool's name or a ``MapType``. Raises ``Verdict``."""
        kind = MapType[map_type.upper()] if isinstance(map_type, str) else map_type
        request = bpf_service_pb2.CreateMapRequest(
            caller=self.caller,
            spec=bpf_pb2.MapSpec(
                map_type=bpf_pb2.MapType.ValueType(kind),
                key_size_bytes=key_size,
                value_size_bytes=value_size,
                max_entries=max_entries,
                map_flags=map_flags,
                map_name=name,
                inner_map_fd=inner.fd if inner is not None else None,
                map_extra=map_extra,
            ),
            request_id=new_request_id(),
        )
        stub = self.node.client.bpf
        answer = self.node.session.call(stub.CreateMap, request, repeatable=True)
        return Map(self, answer.fd, answer.map_id, answer.receipt)

    def load_program(
        self,
        program_type: str | ProgType,
        instruction_count: int,
        *,
        maps: Sequence["Map"] = (),
        operations: Sequence[bpf_pb2.ProgramOperation] = (),
        name: str = "",
        complexity: bpf_pb2.ProgramComplexity | None = None,
    ) -> bpf_service_pb2.LoadProgramResponse:
        """BPF_PROG_LOAD. Raises ``Verdict``."""
        kind = ProgType[program_type.upper()] if isinstance(program_type, str) else program_type
        request = bpf_service_pb2.LoadProgramRequest(
            caller=self.caller,
            spec=bpf_pb2.ProgramSpec(
                program_type=bpf_pb2.ProgramType.ValueType(kind),
                instruction_count=instruction_count,
                program_name=name,
                map_fds=[each.fd for each in maps],
                operations=operations,
                complexity=complexity,
            ),
            request_id=new_request_id(),
        )
        stub = self.node.client.bpf
        return self.node.session.call(stub.LoadProgram, request, repeatable=True)

    def allocate(self, size_bytes: int) -> process_service_pb2.Process:
        """Touches anonymous memory. Raises ``Verdict`` where the OOM killer takes this process."""
        request = process_service_pb2.AllocateMemoryRequest(
            caller=self.caller, size_bytes=size_bytes
        )
        return self.node.session.call(self.node.client.processes.AllocateMemory, request).process

    def release(self, size_bytes: int) -> process_service_pb2.Process:
        """Gives anonymous memory back."""
        request = process_service_pb2.ReleaseMemoryRequest(
            caller=self.caller, size_bytes=size_bytes
        )
        return self.node.session.call(self.node.client.processes.ReleaseMemory, request).process

    def close_file(self, fd: int) -> bpf_pb2.ChargeReceipt:
        """close(2)."""
        request = process_service_pb2.CloseFileRequest(caller=self.caller, fd=fd)
        return self.node.session.call(self.node.client.processes.CloseFile, request).receipt

    def open_map(self, map_id: int) -> "Map":
        """BPF_MAP_GET_FD_BY_ID."""
        request = bpf_service_pb2.OpenMapRequest(caller=self.caller, map_id=map_id)
        fd = self.node.session.call(self.node.client.bpf.OpenMap, request).fd
        return Map(self, fd, map_id, bpf_pb2.ChargeReceipt())

    def open_program(self, program_id: int) -> int:
        """BPF_PROG_GET_FD_BY_ID; returns the descriptor."""
        request = bpf_service_pb2.OpenProgramRequest(caller=self.caller, program_id=program_id)
        return self.node.session.call(self.node.client.bpf.OpenProgram, request).fd

    def lock(self, size_bytes: int) -> None:
        """mlock(2) of memory that it touches for it. Raises ``Verdict``."""
        request = process_service_pb2.LockMemoryRequest(caller=self.caller, size_bytes=size_bytes)
        self.node.session.call(self.node.client.processes.LockMemory, request)

    def pin(self, fd: int, path: str) -> None:
        """BPF_OBJ_PIN of a descriptor."""
        request = bpf_service_pb2.PinObjectRequest(caller=self.caller, fd=fd, path=path)
        self.node.session.call(self.node.client.bpf.PinObject, request)

    def open_pinned(self, path: str) -> int:
        """BPF_OBJ_GET; returns the descriptor."""
        request = bpf_service_pb2.OpenPinnedObjectRequest(caller=self.caller, path=path)
        return self.node.session.call(self.node.client.bpf.OpenPinnedObject, request).fd

    def kill(self) -> process_service_pb2.Process:
        """SIGKILL."""
        request = process_service_pb2.KillProcessRequest(
            name=names.process_name(self.node.node_id, self.pid)
        )
        return self.node.session.call(self.node.client.processes.KillProcess, request).process


class Map:
    """A map that a process has open. ``receipt`` is what its creation cost."""

    def __init__(
        self, process: Process, fd: int, map_id: int, receipt: bpf_pb2.ChargeReceipt
    ) -> None:
        self.process: Final = process
        self.fd: Final = fd
        self.map_id: Final = map_id
        self.receipt: Final = receipt
        self._stub: Final = process.node.client.bpf
        self._session: Final = process.node.session

    def lookup(self, key: bytes | None) -> bytes:
        """The value of a key. Raises ``Verdict`` (ENOENT)."""
        request = bpf_service_pb2.LookupElementRequest(
            caller=self.process.caller, fd=self.fd, key=key
        )
        return self._session.call(self._stub.LookupElement, request, repeatable=True).value

    def update(self, key: bytes | None, value: bytes, flags: int = 0) -> bpf_pb2.ChargeReceipt:
        """Stores a value. Raises ``Verdict``."""
        request = bpf_service_pb2.UpdateElementRequest(
            caller=self.process.caller,
            fd=self.fd,
            key=key,
            value=value,
            mode=bpf_pb2.UpdateMode.ValueType(flags),
        )
        return self._session.call(self._stub.UpdateElement, request).receipt

    def delete(self, key: bytes) -> bpf_pb2.ChargeReceipt:
        """Removes a key. Raises ``Verdict``."""
        request = bpf_service_pb2.DeleteElementRequest(
            caller=self.process.caller, fd=self.fd, key=key
        )
        return self._session.call(self._stub.DeleteElement, request).receipt

    def update_batch(
        self, keys: bytes, values: bytes, count: int, flags: int = 0
    ) -> bpf_service_pb2.UpdateBatchResponse:
        """Stores ``count`` values, packed one after the other. Raises ``Verdict``."""
        request = bpf_service_pb2.UpdateBatchRequest(
            caller=self.process.caller,
            fd=self.fd,
            keys=keys,
            values=values,
            element_count=count,
            mode=bpf_pb2.UpdateMode.ValueType(flags),
        )
        return self._session.call(self._stub.UpdateBatch, request)

    def lookup_batch(
        self, count: int, in_batch: bytes | None = None
    ) -> bpf_service_pb2.LookupBatchResponse:
        """Up to ``count`` elements after ``in_batch``. Raises ``Verdict`` (ENOENT at the end)."""
        request = bpf_service_pb2.LookupBatchRequest(
            caller=self.process.caller, fd=self.fd, element_count=count, in_batch=in_batch
        )
        return self._session.call(self._stub.LookupBatch, request, repeatable=True)

    def delete_batch(self, keys: bytes, count: int) -> bpf_service_pb2.DeleteBatchResponse:
        """Removes ``count`` keys. Raises ``Verdict``."""
        request = bpf_service_pb2.DeleteBatchRequest(
            caller=self.process.caller, fd=self.fd, keys=keys, element_count=count
        )
        return self._session.call(self._stub.DeleteBatch, request)

    def freeze(self) -> None:
        """BPF_MAP_FREEZE."""
        request = bpf_service_pb2.FreezeMapRequest(caller=self.process.caller, fd=self.fd)
        self._session.call(self._stub.FreezeMap, request)

    def pin(self, path: str) -> None:
        """BPF_OBJ_PIN."""
        request = bpf_service_pb2.PinObjectRequest(
            caller=self.process.caller, fd=self.fd, path=path
        )
        self._session.call(self._stub.PinObject, request)

    def info(self) -> bpf_pb2.MapInfo:
        """What the node knows about it."""
        request = bpf_service_pb2.GetMapInfoRequest(caller=self.process.caller, fd=self.fd)
        return self._session.call(self._stub.GetMapInfo, request, repeatable=True).map

    def close(self) -> bpf_pb2.ChargeReceipt:
        """close(2) of its descriptor."""
        return self.process.close_file(self.fd)


class SyscallStream:
    """A stream of batched system calls, one message in flight. Use it as a context manager."""

    def __init__(self, client: AgentClient) -> None:
        self._requests: Final[queue.SimpleQueue[bpf_service_pb2.ExecuteSyscallsRequest | None]] = (
            queue.SimpleQueue()
        )
        self._answers: Final = client.bpf.ExecuteSyscalls(iter(self._requests.get, None))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream."""
        self._requests.put(None)
        self._answers.cancel()

    def execute(
        self, caller: bpf_pb2.Caller, syscalls: Sequence[bpf_service_pb2.Syscall]
    ) -> bpf_service_pb2.ExecuteSyscallsResponse:
        """Sends up to 4096 calls and waits for their results. Raises ``CallError``; verdicts are in the results."""
        self._sequence += 1
        self._requests.put(
            bpf_service_pb2.ExecuteSyscallsRequest(
                caller=caller, sequence=self._sequence, syscalls=syscalls
            )
        )
        try:
            answer = next(self._answers)
        except grpc.RpcError as error:
            raise_typed(error)
        if answer.sequence != self._sequence:
            raise RuntimeError(f"answer {answer.sequence} to message {self._sequence}")
        return answer
