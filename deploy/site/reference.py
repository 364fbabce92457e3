"""Pages of the site that are made from the code: the first page, the commands, the library, the messages.

A hook of MkDocs: it adds them to the files of docs/ while the site is built.
"""

import inspect
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import bpfleet

ROOT: Final = Path(__file__).parents[2]
_PROTOS: Final = ROOT / "protos"
_TYPES: Final = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    decisions = sorted(file.src_uri for file in files if file.src_uri.startswith("decisions/"))
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    config.nav[-1]["The project"].append({"Decisions": decisions})
    return files


def pages() -> dict[str, str]:
    """Every generated page by name."""
    readme = (ROOT / "README.md").read_text("utf-8")
    return {
        "index.md": re.sub(r"\(docs/", "(", readme),
        "reference/changelog.md": (ROOT / "CHANGELOG.md").read_text("utf-8"),
        "reference/library.md": "\n".join(_library()),
        "reference/proto.md": "\n".join(_messages()),
    }


# -- library


def _library() -> Iterator[str]:
    from bpfleet.api import library

    yield f"# Library\n\n{_paragraphs(library)}\n"
    for name in bpfleet.__all__:
        found = getattr(bpfleet, name)
        if name.startswith("__"):
            continue
        yield f"## {name}\n\n```python\n{name}{_signature(found)}\n```\n\n{_paragraphs(found)}\n"
        if inspect.isclass(found):
            for member, value in vars(found).items():
                documented = inspect.getdoc(value) if not member.startswith("_") else None
                if documented and (inspect.isfunction(value) or isinstance(value, property)):
                    yield f"- `{member}`: {' '.join(documented.split())}"
            yield ""


def _signature(found: Any) -> str:
    try:
        return str(inspect.signature(found))
    except ValueError:
        return ""


def _paragraphs(found: Any) -> str:
    """A docstring as Markdown, its examples as code."""
    parts = []
    for part in (inspect.getdoc(found) or "").split("\n\n"):
        parts.append(
            f"```python\n{part}\n```" if part.startswith(">>>") else part.replace("``", "`")
        )
    return "\n\n".join(parts)


# -- messages


def _messages() -> Iterator[str]:
    yield "# Messages and services\n\nMade from the comments of `protos/bpfleet/v1`.\n"
    for file in _described().file:
        comments = {
            tuple(at.path): at.leading_comments.strip() for at in file.source_code_info.location
        }
        yield f"## {file.name}\n"
        for index, service in enumerate(file.service):
            yield f"### {service.name}\n\n{comments.get((6, index), '')}\n"
            yield "| call | takes | answers | what it does |\n|---|---|---|---|"
            for number, method in enumerate(service.method):
                takes = f"{'stream ' if method.client_streaming else ''}{_last(method.input_type)}"
                answers = (
                    f"{'stream ' if method.server_streaming else ''}{_last(method.output_type)}"
                )
                text = _line(comments.get((6, index, 2, number), ""))
                yield f"| `{method.name}` | {takes} | {answers} | {text} |"
            yield ""
        for index, message in enumerate(file.message_type):
            yield from _message(message, (4, index), comments)
        for index, enum in enumerate(file.enum_type):
            yield f"### {enum.name}\n\n{comments.get((5, index), '')}\n\n| value | meaning |\n|---|---|"
            for number, value in enumerate(enum.value):
                yield f"| `{value.name}` | {_line(comments.get((5, index, 2, number), ''))} |"
            yield ""


def _message(
    message: descriptor_pb2.DescriptorProto,
    path: tuple[int, ...],
    comments: Mapping[tuple[int, ...], str],
) -> Iterator[str]:
    if message.options.map_entry:
        return
    yield f"### {message.name}\n\n{comments.get(path, '')}\n\n| field | type | meaning |\n|---|---|---|"
    for number, field in enumerate(message.field):
        kind = _last(field.type_name) or _TYPES[field.type]
        many = "repeated " if field.label == field.LABEL_REPEATED else ""
        yield f"| `{field.name}` | {many}{kind} | {_line(comments.get((*path, 2, number), ''))} |"
    yield ""
    for index, inner in enumerate(message.nested_type):
        yield from _message(inner, (*path, 3, index), comments)


def _described() -> descriptor_pb2.FileDescriptorSet:
    """The protos with their comments."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set"
        status = protoc.main(
            ["protoc", f"-I{_PROTOS}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
             "--include_source_info", f"--descriptor_set_out={target}",
             *(str(path) for path in sorted(_PROTOS.rglob("*.proto")))]
        )  # fmt: skip
        if status:
            raise RuntimeError(f"protoc ended with status {status}")
        return descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _line(comment: str) -> str:
    return " ".join(comment.split()).replace("|", "\\|")
