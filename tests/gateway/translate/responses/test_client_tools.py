"""The tools that responses define and the client runs: as functions, and back."""

import json

import pytest
from openai.types.responses import ResponseOutputItem
from pydantic import TypeAdapter

from tokenworks.gateway.translate.responses.client_tools import (
    BUILTINS,
    arguments_of,
    builtin_tool,
    call_item,
)

ITEM = TypeAdapter(ResponseOutputItem)
ARGUMENTS = {
    "local_shell": {
        "command": ["ls", "-l"],
        "env": {"A": "b"},
        "timeout_ms": 5,
        "working_directory": "/",
        "user": "u",
    },
    "shell": {"commands": ["ls"], "timeout_ms": 5, "max_output_length": 100},
    "apply_patch": {"type": "update_file", "path": "a.py", "diff": "+x"},
    "tool_search": {"query": "mail"},
}


@pytest.mark.parametrize("builtin", sorted(BUILTINS))
def test_a_call_comes_back_and_the_types_of_the_sdk_accept_it(builtin):
    arguments = ARGUMENTS[builtin]
    item = call_item(builtin, "c1", "tc_1", json.dumps(arguments))
    ITEM.validate_python(item)
    assert json.loads(arguments_of(builtin, item)) == arguments
    parameters = builtin_tool(builtin, {}).parameters
    assert set(arguments) <= set(parameters["properties"]) and set(parameters["required"]) <= set(arguments)


@pytest.mark.parametrize(("builtin", "arguments"), [
    ("local_shell", {"command": "ls"}), ("local_shell", {}), ("shell", {"commands": [1]}), ("apply_patch", {"type": "rename", "path": "a"}),
    ("apply_patch", {"type": [], "path": "a"}), ("apply_patch", {"type": "create_file"}), ("tool_search", []),
])  # fmt: skip
def test_arguments_that_the_type_does_not_have_make_no_item(builtin, arguments):
    assert call_item(builtin, "c", "i", json.dumps(arguments)) is None


def test_a_patch_without_its_diff_gets_an_empty_one():
    item = call_item("apply_patch", "c", "i", '{"type": "create_file", "path": "a"}')
    assert item["operation"]["diff"] == ""
    assert (
        "diff" not in call_item("apply_patch", "c", "i", '{"type": "delete_file", "path": "a"}')["operation"]
    )


def test_a_clients_own_words_come_first():
    own = builtin_tool("tool_search", {"description": "D", "parameters": {"type": "object"}})
    assert (own.description, own.parameters) == ("D", {"type": "object"})
