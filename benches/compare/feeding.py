"""One download by one client, fed by the seeders of the harness on CPU 1."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from compare.clients import START, TOLD
from compare.measure import place, wait_quiet
from compare.servers import Server, free_port


class Client(Server):
    """A client's process on CPU 0."""

    def named(self, *command):
        """A command that writes its process id to a file before it begins: the harness is there first."""
        return ("sh", "-c", 'echo $$ >"$0"; exec "$@"', self.folder / "pid", *command)


def touch_memory(gib):
    """Uses so much memory and gives it back: on a virtual machine the first use of a page is expensive, for whoever has it."""
    fill = f"for _ in [b'\\1' * ({gib} << 30)]: pass"
    subprocess.run([sys.executable, "-c", fill], check=True)


def download(options, name, torrent, data, arguments, running):
    """Lets a client download the torrent and returns the harness's report. Nothing of it stays but what it says."""
    os.sync()
    if options.touch:
        touch_memory(options.touch)
    wait_quiet(options.patience)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=options.folder))
    client = Client(name, folder, running, options.nice, free_port())
    into = folder / "download"
    into.mkdir()
    command = [options.btd, "bench", "leech", "--torrent", torrent, "--data", data, "--json"]
    command += ["--watch-data", into, "--linger", str(options.linger), *arguments]
    settle = lambda: place(1, options.nice)
    begin = lambda *more: subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=settle, text=True
    )
    try:
        if name in TOLD:
            harness = begin("--pid-file", folder / "pid")
            seeders = json.loads(harness.stdout.readline() or "{}").get("seeders", [])
            START[name](client, options, torrent, into, seeders)
        else:
            START[name](client, options, torrent, into, [])
            harness = begin("--connect", f"127.0.0.1:{client.port}", "--pid", str(client.process.pid))
        try:
            out, errors = harness.communicate()
        except BaseException:
            harness.kill()
            raise
        # 1 is a client that did not get everything in time, which is all right where time is what ends a run.
        if harness.returncode not in (0, 1) or not out.strip():
            log = (folder / "log").read_text(errors="replace")[-2000:]
            sys.exit(f"{name}: {errors}\nits log:\n{log}")
        report = json.loads(out.splitlines()[-1])
        client.stop()
        report["right"] = is_right(options, torrent, into) if report["ended"] == "whole" else None
        return report
    finally:
        client.stop()
        shutil.rmtree(folder, ignore_errors=True)


def is_right(options, torrent, into):
    """Whether the payload is whole, by its hashes."""
    run = subprocess.run([options.btd, "verify", torrent, "--data", into], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return run.returncode == 0
