"""These tests hand in a recorder and connections that only record what is asked of them. A compiled module takes objects of the declared
classes alone (docs/decisions/0059), so the tests run on the sources; on compiled modules requests are tested over sockets (`tests/e2e`).
"""

from tokenworks import compiled

collect_ignore_glob = ["test_*.py"] if compiled.state().word == "compiled" else []
