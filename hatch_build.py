"""The build hook: a wheel carries compiled modules, and an editable installation has them in build/compiled, where they can be made."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags


class CompiledModules(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """`version` is "editable" or "standard"."""
        if os.environ.get("TOKENWORKS_COMPILE") == "0":
            self.app.display_info("TOKENWORKS_COMPILE=0: nothing is compiled, the sources run interpreted.")
            return
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("_tokenworks_compile", root / "scripts" / "compile.py")
        assert spec is not None and spec.loader is not None
        compiling = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compiling)
        tag = compiling.runtime_of(root).TAG
        folder = root / "build" / "compiled" / tag
        if compiling.compiled_for(root, folder, self.app.display_info) and version != "editable":
            build_data["force_include"][str(folder)] = f"tokenworks/native/{tag}"
            build_data["pure_python"] = False
            build_data["tag"] = str(next(sys_tags()))
