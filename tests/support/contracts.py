"""A contract for import-linter: what its wildcards can't say, since they stand for whole names."""

from importlinter import Contract, ContractCheck, fields, output


class PrivateStores(Contract):
    """Modules whose name is or ends in `suffix` are imported within their own room alone, whatever package of it they are in."""

    suffix = fields.StringField()
    # `importer -> imported`, each with its reason beside it in the configuration.
    allowed = fields.SetField(subfield=fields.StringField(), required=False, default=None)

    def check(self, graph, verbose):
        broken, unused = [], set(self.allowed or ())
        stores = [module for module in graph.modules if self._is_store(module.rpartition(".")[2])]
        assert stores, "no module has this suffix"
        for store in sorted(stores):
            room = ".".join(store.split(".")[:2])
            for importer in sorted(graph.find_modules_that_directly_import(store)):
                if importer == room or importer.startswith(room + "."):
                    continue
                line = f"{importer} -> {store}"
                if line in unused:
                    unused.discard(line)
                else:
                    broken.append(line)
        return ContractCheck(
            kept=not broken and not unused, metadata={"broken": broken, "unused": sorted(unused)}
        )

    def _is_store(self, name):
        return name == self.suffix or name.endswith(f"_{self.suffix}")

    def render_broken_contract(self, check):
        for line in check.metadata["broken"]:
            output.print_error(f"{line}: a room's SQL is private to it")
        for line in check.metadata["unused"]:
            output.print_error(f"{line} is allowed, and nobody imports so")
