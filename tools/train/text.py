#!/usr/bin/env python3
"""Gathers text that a byte model may be trained on into one file: text.py OUT.bin [--unseen FILE…] [--logs BYTES]

Public-domain books of Debian packages, and logs written by logs.py. SOURCES below is all that goes in. Documents are separated by a
zero byte. A document that shares a run of 64 bytes with one of the --unseen files (plain or .xz), by which the model is to be judged,
is left out and named. Needs

    apt-get install sword-comm-tdavid sword-comm-mhcc sword-text-web libsword-utils r-cran-janeaustenr jargon-text dict-devil
"""
import argparse
import gzip
import html
import lzma
import re
import subprocess

import logs

RUN = 64


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout.decode("utf-8", "replace")


def sword(module):
    """A module of the SWORD project: its books, as documents, without markup. A paragraph that is many verses' stands once."""
    books, seen = {}, set()
    for entry in output("mod2imp", module).split("$$$")[1:]:
        key, _, text = entry.partition("\n")
        text = re.sub(r"<(lb|p|div|l|lg|title|list|item)\b[^>]*>", "\n", text)
        text = html.unescape(re.sub(r"<[^>]+>", "", text))
        text = re.sub(r"\n\s*\n+", "\n\n", re.sub(r"[ \t]+", " ", text)).strip()
        text = "\n".join(line for line in text.split("\n") if len(line) < 60 or line not in seen)
        seen.update(text.split("\n"))
        if text:
            books.setdefault(re.sub(r" ?[\d:]+$", "", key), []).append(text)
    return {f"{module} {book}": "\n".join(texts) for book, texts in books.items()}


def austen():
    books = ("sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion")
    return {book: output("Rscript", "-e", f"cat(janeaustenr::{book}, sep='\\n')") for book in books}


def unzipped(path):
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as f:
        return {path.rsplit("/", 1)[-1]: f.read()}


SOURCES = {  # package: (licence, its documents)
    "sword-comm-tdavid": ("C. H. Spurgeon, The Treasury of David, 1885: public domain", lambda: sword("TDavid")),
    "sword-comm-mhcc": ("Matthew Henry, Concise Commentary, 1706: public domain", lambda: sword("MHCC")),
    "sword-text-web": ("World English Bible: public domain", lambda: sword("engWEB2015eb")),
    "r-cran-janeaustenr": ("Jane Austen's novels: public domain (the package: MIT)", austen),
    "jargon-text": ("The Jargon File: public domain", lambda: unzipped("/usr/share/doc/jargon-text/jargon.txt.gz")),
    "dict-devil": ("Ambrose Bierce, The Devil's Dictionary, 1911: public domain",
                   lambda: unzipped("/usr/share/dictd/devil.dict.dz")),
}


def read(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rb") as f:
        return f.read()


class Unseen:
    """Any run of RUN bytes holds a whole block of RUN/2 that begins at a multiple of RUN/2."""

    def __init__(self, texts):
        half = RUN // 2
        self.texts = texts
        self.halves = {text[i:i + half] for text in texts for i in range(len(text) - half + 1)}

    def shares(self, text):
        half = RUN // 2
        for i in range(0, len(text) - half + 1, half):
            if text[i:i + half] in self.halves:
                for at in range(max(0, i - half), min(i, len(text) - RUN) + 1):
                    if any(text[at:at + RUN] in other for other in self.texts):
                        return True
        return False


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--unseen", nargs="*", default=[])
    p.add_argument("--logs", type=int, default=4_000_000, help="bytes of generated logs")
    args = p.parse_args()
    unseen = Unseen([read(path) for path in args.unseen])
    total = 0
    with open(args.out, "wb") as out:
        def put(source, licence, documents):
            size = 0
            for name, text in documents.items():
                data = text.encode()
                if unseen.shares(data):
                    print(f"left out, for it shares {RUN} bytes with a file that is to stay unseen: {source}: {name}")
                    continue
                size += out.write(data + b"\0")
            print(f"{source:20} {size:10} bytes  {licence}", flush=True)
            return size

        for source, (licence, documents) in SOURCES.items():
            total += put(source, licence, documents())
        total += put("logs.py", "this project's own: Apache-2.0", logs.documents(args.logs))
    print(f"{'all':20} {total:10} bytes")


if __name__ == "__main__":
    main()
