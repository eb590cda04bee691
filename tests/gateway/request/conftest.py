"""These tests hand in a recorder and connections that only note what is asked of them, which compiled modules refuse: they run on the
sources. On compiled modules requests are tested over sockets (`tests/e2e`).
"""

from tests.support.builds import IS_COMPILED

collect_ignore_glob = ["test_*.py"] if IS_COMPILED else []
