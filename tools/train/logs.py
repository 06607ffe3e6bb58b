"""Machine logs out of nothing: hosts with habits write syslog, web server, database and application lines. For training
byte models to read logs; no line is anybody's."""
import random

WORDS = ("cache index worker session queue shard volume bucket ledger router mirror replica batch cursor token feed relay probe "
         "agent broker signal vault region cluster snapshot ingest export schema tenant invoice order report sensor gauge").split()
USERS = "root admin deploy backup anna joe maria git www-data postgres nagios oleg chen ravi sofia".split()
PATHS = "/ /index.html /login /api/v1/{w} /api/v1/{w}/{n} /static/{w}.js /img/{w}-{n}.png /health /metrics /{w}/search?q={w}".split()
AGENTS = ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "curl/7.88.1", "python-requests/2.28.1", "kube-probe/1.26", "-")
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

# {k} package with its version, {v} another version, {w} word, {u} user, {n} small number, {N} large one, {f} fraction, {x} hex, {ip} address, {p} pid-like
LINES = {
    "syslog": [
        (8, "systemd[1]: Started {w}-{n}.service - {W} {w} service."),
        (8, "systemd[1]: {w}-{n}.service: Deactivated successfully."),
        (9, "CRON[{p}]: pam_unix(cron:session): session opened for user {u}(uid={n}) by (uid=0)"),
        (9, "CRON[{p}]: ({u}) CMD (/usr/local/bin/{w} --{w} >/dev/null 2>&1)"),
        (6, "sshd[{p}]: Accepted publickey for {u} from {ip} port {N} ssh2: ED25519 SHA256:{x}"),
        (5, "sshd[{p}]: Disconnected from user {u} {ip} port {N}"),
        (3, "sshd[{p}]: Failed password for invalid user {w} from {ip} port {N} ssh2"),
        (3, "kernel: [{N}.{N}] eth{n}: link up, {n}000 Mbps, full duplex"),
        (1, "kernel: [{N}.{N}] EXT4-fs (sda{n}): mounted filesystem with ordered data mode."),
        (1, "kernel: [{N}.{N}] Out of memory: Killed process {p} ({w}) total-vm:{N}kB, anon-rss:{N}kB"),
        (4, "dhclient[{p}]: DHCPACK of {ip} from {ip}"),
    ],
    "web": [(1, '{ip} - - [{clock}] "GET {path} HTTP/1.1" 200 {N} "-" "{agent}"'),
            (.2, '{ip} - {u} [{clock}] "POST /api/v1/{w} HTTP/1.1" 201 {n} "-" "{agent}"'),
            (.05, '{ip} - - [{clock}] "GET {path} HTTP/1.1" 404 {n} "-" "{agent}"'),
            (.02, '{ip} - - [{clock}] "GET {path} HTTP/1.1" 500 {n} "-" "{agent}"')],
    "database": [
        (6, "LOG:  checkpoint complete: wrote {n} buffers ({f}%); write={f} s, sync={f} s, total={f} s"),
        (5, "LOG:  duration: {f} ms  statement: SELECT * FROM {w} WHERE id = {N}"),
        (2, "LOG:  connection authorized: user={u} database={w}"),
        (1, "ERROR:  duplicate key value violates unique constraint \"{w}_pkey\""),
        (1, "LOG:  automatic vacuum of table \"{w}.public.{w}\": index scans: {n}"),
    ],
    "application": [
        (9, "INFO  [{w}-{n}] {w}.{W}: processed {N} items in {n} ms"),
        (6, "DEBUG [{w}-{n}] {w}.{W}: {w} {x} assigned to {w}"),
        (2, "WARN  [{w}-{n}] {w}.{W}: {w} is {n} ms late, retrying ({n}/5)"),
        (1, "ERROR [{w}-{n}] {w}.{W}: cannot reach {ip}:{N}: connection timed out"),
    ],
    "packages": [
        (6, "status unpacked {k}"),
        (6, "status half-configured {k}"),
        (5, "status half-installed {k}"),
        (5, "status installed {k}"),
        (4, "configure {k} <none>"),
        (3, "upgrade {k} {v}"),
        (2, "trigproc {k} <none>"),
        (1, "status triggers-pending {k}"),
        (1, "startup archives unpack"),
        (1, "startup packages configure"),
    ],
}


def stamp(kind, t, host):
    day, second = t // 86400, t % 86400
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    month, date = day // 28 % 12, day % 28 + 1
    if kind == "syslog":
        return f"{MONTHS[month]} {date:2} {clock} {host} ", clock
    if kind == "web":
        return "", f"{date:02}/{MONTHS[month]}/2025:{clock} +0000"
    return f"2025-{month + 1:02}-{date:02} {clock}" + (" " if kind == "packages" else f".{t * 7919 % 1000:03} "), clock


def document(rng, kind, size):
    """A log of one host and program, which uses a few of the lines, words and addresses again and again."""
    some = lambda of, k: rng.sample(of, min(k, len(of)))
    words, users, lines = some(WORDS, rng.randint(3, 9)), some(USERS, 4), some(LINES[kind], rng.randint(3, 9))
    addresses = [".".join(str(rng.randint(1, 254)) for _ in range(4)) for _ in range(rng.randint(2, 12))]
    version = lambda: f"{rng.randint(0, 12)}.{rng.randint(0, 40)}.{rng.randint(0, 9)}-{rng.randint(1, 9)}{rng.choice(('', '+b1', '+deb12u2'))}"
    packages = [f"{rng.choice(('lib', '', 'python3-'))}{w}{rng.choice(('', '1', '-dev', '-common'))}:{rng.choice(('amd64', 'all'))} {version()}"
                for w in words]
    host, t, pid = f"{rng.choice(words)}{rng.randint(1, 20):02}", rng.randint(0, 300 * 86400), rng.randint(300, 90000)
    pace, out, length = rng.choice((1, 5, 60, 300)), [], 0
    fill = {"w": lambda: rng.choice(words), "W": lambda: rng.choice(words).capitalize(), "u": lambda: rng.choice(users),
            "n": lambda: rng.randint(1, 99), "N": lambda: rng.randint(1000, 99999), "f": lambda: f"{rng.expovariate(.2):.3f}",
            "x": lambda: f"{rng.getrandbits(48):012x}", "ip": lambda: rng.choice(addresses),
            "k": lambda: rng.choice(packages), "v": version, "p": lambda: pid + rng.randint(0, 40), "agent": lambda: rng.choice(AGENTS)}
    while length < size:
        t += int(rng.expovariate(1 / pace))
        pid += rng.randint(0, 3)
        head, clock = stamp(kind, t, host)
        line = rng.choices([text for _, text in lines], [weight for weight, _ in lines])[0]
        line = line.replace("{path}", rng.choice(PATHS)).replace("{clock}", clock)
        for key, value in fill.items():
            while "{" + key + "}" in line:
                line = line.replace("{" + key + "}", str(value()), 1)
        out.append(head + line + "\n")
        length += len(out[-1])
    return "".join(out)


def documents(size, seed=1):
    rng, out = random.Random(seed), {}
    while size > 0:
        kind, length = rng.choice(list(LINES)), rng.randint(4000, 40000)
        out[f"{kind} {len(out)}"] = document(rng, kind, length)
        size -= length
    return out
