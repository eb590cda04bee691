import os

# Tests run the sources, whatever lies in build/compiled. `make test-compiled` sets it to 1: then it is an error where they would run.
os.environ.setdefault("TOKENWORKS_COMPILE", "0")
