"""What a command costs before it does anything: CPU of whole processes, as a ratio to `python -c pass` in the same run.

Commands that need a database find one that is up. Bytecode is there, as in an installation. The least of several rounds counts: what
others do on the machine only adds.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

PHONE = "+8613800000001"
# Without a database; then with one. `{n}` is another number in each round.
ROWS = {
    "--help": ("--help",),
    "--version": ("--version",),
    "order --help": ("order", "--help"),
    "config show": ("config", "show"),
}
ROWS_OF_THE_DATABASE = {
    "doctor": ("doctor",),
    "subscriber create": ("subscriber", "create", "--phone", "+86139{n:08}"),
    "key create": ("key", "create", "--subscriber", PHONE),
    "deployment add": (
        "deployment", "add", "--name", "d{n}", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--protocol", "chat", "--allow-private",
    ),
    "balance": ("balance", "--subscriber", PHONE),
    "ledger verify": ("ledger", "verify"),
    "init": ("init",),
}  # fmt: skip
# Seconds of CPU that help may take beyond those of a bare interpreter.
HELP_S_MAX = 0.2


def cpu_of(args, env):
    """Seconds of CPU that a process took, with those that it started. Raises `CalledProcessError` where it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *args], env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds, advance):
    """Row -> (seconds of CPU, ratio to a bare interpreter): the least of so many rounds."""
    from tokenworks.app.database.connections import database
    from tokenworks.app.settings import load_settings

    with tempfile.TemporaryDirectory(prefix="tokenworks-bench-") as folder:
        data_dir = Path(folder) / "data"
        data_dir.mkdir(mode=0o700)
        (data_dir / "tokenworks.toml").write_text('environment = "dev"\nembedded_fsync = false\n')
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
            "TOKENWORKS_DATA_DIR": str(data_dir),
            "PYTHONPYCACHEPREFIX": f"{folder}/bytecode",
        }
        run = ("-m", "tokenworks")
        found = {"python -c pass": []} | {row: [] for row in (*ROWS, *ROWS_OF_THE_DATABASE)}
        with database(load_settings({"data_dir": str(data_dir)}).settings):
            cpu_of((*run, "init"), env)
            cpu_of((*run, "subscriber", "create", "--phone", PHONE), env)
            for n in range(rounds + 1):
                found["python -c pass"].append(cpu_of(("-c", "pass"), env))
                for row, args in (ROWS | ROWS_OF_THE_DATABASE).items():
                    found[row].append(cpu_of((*run, *(arg.format(n=n) for arg in args)), env))
                advance()
    bare = min(found["python -c pass"])
    return {row: (min(times), min(times) / bare) for row, times in found.items()}
