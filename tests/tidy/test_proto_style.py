"""The rules of our protobuf package (AIP and Buf, where they agree with us), over its descriptors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
STREAMS = {"ExecuteSyscalls", "WatchEvents", "WatchFleet"}
IMPORTS = (
    "bpfleet/v1/",
    "google/protobuf/timestamp.proto",
    "google/protobuf/duration.proto",
    "google/protobuf/field_mask.proto",
)
UNITS = ("_bytes", "_count", "_ns", "_entries", "_size", "_percent")
# int64 fields that are no quantities, or that keep the word of bpf_attr, Linux or etcd.
NO_QUANTITY = re.compile(
    r".*(flags|revision|sequence|map_extra|seed|serial|uid|nth|leader_epoch|bytes(_(after|max))?)"
)
QUANTITIES_IN_OTHER_WORDS = {"operations_per_step", "fill_entries", "max_entries"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    out = tmp_path_factory.mktemp("protos") / "set"
    command = [
        sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_source_info",
        f"--descriptor_set_out={out}",
        *sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")),
    ]  # fmt: skip
    subprocess.run(command, cwd=PROTOS, check=True, timeout=60)
    return FileDescriptorSet.FromString(out.read_bytes()).file


def messages(files):
    def walk(prefix, message):
        name = f"{prefix}{message.name}"
        if not message.options.map_entry:
            yield name, message
        for nested in message.nested_type:
            yield from walk(f"{name}.", nested)

    return [item for file in files for message in file.message_type for item in walk("", message)]


def enums(files):
    nested = [enum for _, message in messages(files) for enum in message.enum_type]
    return [*nested, *(enum for file in files for enum in file.enum_type)]


def methods(files):
    return [
        (file, service, method)
        for file in files
        for service in file.service
        for method in service.method
    ]


def test_the_stubs_are_those_of_the_protos():
    command = [sys.executable, str(PROTOS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_package_and_folder_are_one(files):
    assert {file.package for file in files} == {"bpfleet.v1"}
    assert {file.syntax for file in files} == {"proto3"}
    assert all(file.name.startswith("bpfleet/v1/") for file in files)


def test_imports_are_ours_or_well_known(files):
    assert not [(f.name, i) for f in files for i in f.dependency if not i.startswith(IMPORTS)]


def test_a_service_has_a_file_of_its_own_and_says_service(files):
    for file in files:
        assert len(file.service) == file.name.endswith("_service.proto"), file.name
        assert all(service.name.endswith("Service") for service in file.service)


def test_requests_and_responses_belong_to_one_method_and_stand_in_its_file(files):
    for file, _, method in methods(files):
        for message, suffix in ((method.input_type, "Request"), (method.output_type, "Response")):
            assert message == f".bpfleet.v1.{method.name}{suffix}"
            assert message.rpartition(".")[2] in {m.name for m in file.message_type}


def test_requests_and_responses_stand_in_the_order_of_their_methods(files):
    for file in files:
        wanted = [
            f"{m.name}{s}"
            for s_ in file.service
            for m in s_.method
            for s in ("Request", "Response")
        ]
        found = [m.name for m in file.message_type if m.name in set(wanted)]
        assert found == wanted, file.name


def test_only_three_methods_stream(files):
    streams = {
        method.name
        for _, _, method in methods(files)
        if method.client_streaming or method.server_streaming
    }
    assert streams == STREAMS


def test_lists_have_pages(files):
    by_name = dict(messages(files))
    for _, _, method in methods(files):
        if method.name.startswith("List"):
            request = {f.name: f.type for f in by_name[f"{method.name}Request"].field}
            response = {f.name: f.type for f in by_name[f"{method.name}Response"].field}
            assert request["page_size"] == Field.TYPE_INT32, method.name
            assert request["page_token"] == Field.TYPE_STRING, method.name
            assert response["next_page_token"] == Field.TYPE_STRING, method.name


def test_everything_has_a_comment(files):
    missing = []
    for file in files:
        commented = {
            tuple(place.path)
            for place in file.source_code_info.location
            if place.leading_comments.strip() or place.trailing_comments.strip()
        }
        missing += [f"{file.name} {name}" for path, name in places(file) if path not in commented]
    assert not missing


def places(file):
    """Path in the descriptor and name of each thing that needs a comment."""
    for s, service in enumerate(file.service):
        yield (6, s), service.name
        yield from (((6, s, 2, m), method.name) for m, method in enumerate(service.method))
    for e, enum in enumerate(file.enum_type):
        yield (5, e), enum.name
    for m, message in enumerate(file.message_type):
        yield from message_places((4, m), message)


def message_places(path, message):
    if message.options.map_entry:
        return
    yield path, message.name
    for f, field in enumerate(message.field):
        yield (*path, 2, f), f"{message.name}.{field.name}"
    for e, enum in enumerate(message.enum_type):
        yield (*path, 4, e), enum.name
    for n, nested in enumerate(message.nested_type):
        yield from message_places((*path, 3, n), nested)


def test_enum_values_carry_the_name_of_the_enum_and_0_means_unspecified(files):
    for enum in enums(files):
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value), enum.name
        assert (enum.value[0].number, enum.value[0].name) == (0, f"{prefix}_UNSPECIFIED")


def test_nothing_is_unsigned(files):
    unsigned = {Field.TYPE_UINT32, Field.TYPE_UINT64, Field.TYPE_FIXED32, Field.TYPE_FIXED64}
    found = [(n, f.name) for n, m in messages(files) for f in m.field if f.type in unsigned]
    assert not found


def test_quantities_carry_their_unit(files):
    unclear = [
        f"{name}.{field.name}"
        for name, message in messages(files)
        for field in message.field
        if field.type == Field.TYPE_INT64
        and not field.name.endswith(UNITS)
        and not NO_QUANTITY.fullmatch(field.name)
        and field.name not in QUANTITIES_IN_OTHER_WORDS
    ]
    assert not unclear


def test_moments_end_in_time(files):
    for name, message in messages(files):
        for field in message.field:
            if field.type_name == ".google.protobuf.Timestamp":
                assert field.name == "time" or field.name.endswith("_time"), f"{name}.{field.name}"


def test_names_are_spelled_as_protobuf_wants(files):
    for name, message in messages(files):
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", message.name), name
        for field in message.field:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name), f"{name}.{field.name}"
