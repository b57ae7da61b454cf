#!/usr/bin/env python3
"""What each panel of the dashboard shows while btd is under load: a real Prometheus scrapes it, and answers the panels' queries.

    benches/look_at_dashboard.py [--btd target/release/btd] [--seconds 60] [--idle-torrents 10000]

btd seeds one torrent of 256 MiB to 50 leechers of 0.25 MB/s each (`btd bench seed`), downloads another from a second btd, is the
tracker of both, and holds as many idle torrents as --idle-torrents says: what a scrape costs with them is measured first. What comes
out is Markdown: a table of the panels, and lines about the alerts and the scrapes. It needs Debian's package `prometheus`.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

CONFIG = Path(__file__).resolve().parent.parent / "config"
PAYLOAD = 256 << 20


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def wait_for(what, look, seconds=120, pause=0.1):
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds} s: {what}")
        time.sleep(pause)


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def metric(text, name):
    for line in text.splitlines():
        if line.rpartition(" ")[0] == name:
            return float(line.rpartition(" ")[2])
    return 0.0


class Daemon:
    """A btd with a home of its own."""

    def __init__(self, btd, home, more):
        home.mkdir()
        for folder in ("torrents", "data"):
            (home / folder).mkdir(exist_ok=True)
        self.home = home
        config = home / "btd.toml"
        config.write_text(
            f'state-dir = "{home / "state"}"\n[peers]\nlisten = ["127.0.0.1:0"]\n[metrics]\nlisten = "127.0.0.1:0"\n'
            f"top-torrents = 10\n{more}"
        )
        self.btd, self.config, self.process = btd, config, None

    def start(self):
        log = open(self.home / "btd.log", "ab")
        self.process = subprocess.Popen([self.btd, "--config", self.config], stdout=log, stderr=log)
        ports = self.home / "state" / "ports.json"

        def ready():
            if self.process.poll() is not None:
                sys.exit((self.home / "btd.log").read_text())
            return ports.exists()

        wait_for("btd is ready", ready)
        self.ports = json.loads(ports.read_text())
        self.url = f"http://127.0.0.1:{self.ports['metrics']}/metrics"

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(10)


def idle_torrents(folder, data, count):
    """Torrents of one piece each, whose payload is there."""
    for number in range(count):
        content = b"idle %d" % number
        name = b"idle-%d" % number
        (data / name.decode()).write_bytes(content)
        info = {b"length": len(content), b"name": name, b"piece length": 16384, b"pieces": hashlib.sha1(content).digest()}
        (folder / f"idle-{number}.torrent").write_bytes(bencode({b"info": info}))


def scrape_times(url, rounds=20):
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        text = get(url)
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times), max(times), len(text)


def query(prometheus, expression):
    arguments = urllib.parse.urlencode({"query": expression})
    return json.loads(get(f"{prometheus}/api/v1/query?{arguments}"))["data"]["result"]


def shown(value, unit):
    number = float(value)
    if number != number:
        return "no value"
    if unit in ("Bps", "bytes"):
        for prefix in ("", "k", "M", "G"):
            if abs(number) < 1000 or prefix == "G":
                return f"{number:.3g} {prefix}B" + ("/s" if unit == "Bps" else "")
            number /= 1000
    if unit == "s":
        return f"{number:.3g} s" if number >= 1 else f"{number * 1000:.3g} ms"
    if unit == "percentunit":
        return f"{number * 100:.3g} %"
    return f"{number:.6g}" if number >= 1000 else f"{number:.4g}"


def table(prometheus):
    """The panels, each with what its queries give."""
    empty = []
    print("| panel | shows | value |\n| --- | --- | --- |")
    for panel in json.loads((CONFIG / "grafana" / "btd.json").read_text())["panels"]:
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "20s").replace("$instance", ".*")
            result = query(prometheus, expression)
            if not result:
                empty.append(panel["title"])
            for series in sorted(result, key=lambda series: -float(series["value"][1]))[:4]:
                legend = target.get("legendFormat", "")
                for label, text in series["metric"].items():
                    legend = legend.replace("{{%s}}" % label, text)
                print(f"| {panel['title']} | {legend} | {shown(series['value'][1], unit)} |")
    return sorted(set(empty))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--btd", type=lambda path: Path(path).resolve(), default=Path("target/release/btd").resolve())
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--idle-torrents", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dashboard-") as scratch:
        home = Path(scratch)
        running = []
        try:
            look(options, home, running)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(20)


def look(options, home, running):
    def torrent(daemon, name):
        path = home / f"{name}.torrent"
        with open(daemon.home / "data" / name, "wb") as file:
            for _ in range(PAYLOAD >> 20):
                file.write(os.urandom(1 << 20))
        subprocess.run(
            [options.btd, "create", daemon.home / "data" / name, "--output", path, "--tracker", announce],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return path

    watch = '[[watch]]\ndir = "torrents"\ndata-dir = "data"\n[announce]\nallow-private = true\n'
    loaded = Daemon(options.btd, home / "loaded", watch + '[storage]\nscrub = "10m"\n[tracker]\nhttp = "127.0.0.1:0"\nudp = "127.0.0.1:0"\n')
    idle_torrents(loaded.home / "torrents", loaded.home / "data", options.idle_torrents)
    loaded.start()
    running.append(loaded.process)
    wait_for(
        "all idle torrents are seeded",
        lambda: metric(get(loaded.url), 'btd_torrents{state="seeding"}') >= options.idle_torrents,
        300,
    )
    median, most, length = scrape_times(loaded.url)
    other = Daemon(options.btd, home / "other", watch + '[limits]\nupload-rate = "3 MB/s"\n')
    announce = f"http://127.0.0.1:{loaded.ports['tracker_http']}/announce"
    served, wanted = torrent(loaded, "served.bin"), torrent(other, "wanted.bin")
    for path, to in ((served, loaded), (wanted, other)):
        (to.home / "torrents" / path.name).write_bytes(path.read_bytes())
    other.start()
    running.append(other.process)
    # Who asks the tracker before that is told of nobody, and asks again after a minute.
    wait_for("the other is announced", lambda: metric(get(other.url), 'btd_announces_total{result="ok"}') >= 1)
    (loaded.home / "torrents" / wanted.name).write_bytes(wanted.read_bytes())
    prometheus_dir = home / "prometheus"
    prometheus_dir.mkdir()
    (prometheus_dir / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 2s, evaluation_interval: 2s}}\nrule_files: [{CONFIG / 'prometheus' / 'btd.rules.yml'}]\n"
        f"scrape_configs:\n- job_name: btd\n  static_configs: [{{targets: ['127.0.0.1:{loaded.ports['metrics']}']}}]\n"
    )
    listen = "127.0.0.1:19099"
    with open(prometheus_dir / "log", "wb") as log:
        prometheus = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={prometheus_dir / 'prometheus.yml'}",
                f"--storage.tsdb.path={prometheus_dir / 'data'}",
                f"--web.listen-address={listen}",
            ],
            stdout=log,
            stderr=log,
        )
    running.append(prometheus)
    to = f"127.0.0.1:{loaded.ports['peers'][0]}"
    load = [options.btd, "bench", "seed", "--torrent", served, "--connect", to, "--json", "--sleep"]
    warm = [*load, "--connections", "2", "--queue", "8", "--bytes", "16MiB"]
    wait_for(
        "the payload is seeded",
        lambda: subprocess.run(warm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0,
        pause=1,
    )
    paced = [*load, "--connections", "50", "--queue", "8", "--pace", "250kB", "--seconds", str(options.seconds)]
    running.append(subprocess.Popen(paced, stdout=subprocess.DEVNULL))
    time.sleep(options.seconds * 0.8)
    url = f"http://{listen}"
    empty = table(url)
    alerts = json.loads(get(f"{url}/api/v1/alerts"))["data"]["alerts"]
    rules = json.loads(get(f"{url}/api/v1/rules"))["data"]["groups"]
    broken = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] != "ok"]
    scraped = query(url, "max_over_time(scrape_duration_seconds[1m])")[0]["value"][1]
    series = query(url, "scrape_samples_scraped")[0]["value"][1]
    print()
    print(f"- Alerts: {', '.join(sorted(alert['labels']['alertname'] for alert in alerts)) or 'none'} of "
          f"{sum(rule['type'] == 'alerting' for group in rules for rule in group['rules'])}; with an error: {', '.join(broken) or 'none'}.")
    print(f"- Panels without a value: {', '.join(empty) or 'none'}.")
    print(f"- A scrape with {options.idle_torrents} idle torrents: median {median:.2f} ms, at most {most:.2f} ms, {length} bytes; "
          f"by Prometheus under load at most {float(scraped) * 1000:.1f} ms for {series} series.")


if __name__ == "__main__":
    main()
