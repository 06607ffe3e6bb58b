#!/usr/bin/env python3
"""Gathers text that a byte model may be trained on:

    tools/train/text.py FOLDER --unseen ../shared/data/text/*.xz

FOLDER/train.bin is for training, FOLDER/held-books.bin (a novel by an author of whom nothing else is there) and FOLDER/held-logs.bin
are for judging it meanwhile. SOURCES below is all that goes in: public-domain text of Debian packages, which are downloaded to
FOLDER/packages and unpacked there, not installed, and logs written by logs.py. Novels go in again in other layouts (layout.py).
Documents are separated by a zero byte. A piece that shares a run of 64 bytes with one of the --unseen files (plain or .xz), by which
the model is to be judged, is left out, also where it does so only once white space is disregarded. Needs

    apt-get install libsword-utils r-base-core
"""
import argparse
import glob
import gzip
import html
import lzma
import os
import random
import re
import subprocess

import layout
import logs

RUN = 64
PIECE = 20_000  # bytes of a document that are left out together
HELD = "The War of the Worlds"


class Package:
    """A Debian package's files, unpacked."""

    def __init__(self, name, folder):
        self.name, self.root = name, os.path.join(folder, name)
        if not os.path.isdir(self.root):
            os.makedirs(folder, exist_ok=True)
            subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            subprocess.run(["dpkg", "-x", *glob.glob(os.path.join(folder, name + "_*.deb")), self.root], check=True)

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def read(self, *parts):
        path = self.path(*parts)
        with (gzip.open if path.endswith((".gz", ".dz")) else open)(path, "rt", encoding="utf-8", errors="replace") as f:
            return f.read()


def output(*command, **environment):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
                          env={**os.environ, **environment}).stdout.decode("utf-8", "replace")


def sword(package, module):
    """A module of the SWORD project: its books, as documents, without markup. A sentence of some length stands once, and what short ones
    follow it: a comment on many verses is given with each, and with their chapter."""
    books, seen, new = {}, set(), True
    for entry in output("mod2imp", module, SWORD_PATH=package.path("usr/share/sword")).split("$$$")[1:]:
        key, _, text = entry.partition("\n")
        kept = []
        for sentence in re.split(r"(?<=[.!?])(?=\s)", untagged(text)):
            if len(sentence) >= 60:
                new = sentence.strip() not in seen
                seen.add(sentence.strip())
            if new:
                kept.append(sentence)
        if "".join(kept).strip():
            books.setdefault(re.sub(r" ?[\d:]+$", "", key), []).append("".join(kept).strip())
    return {book: "\n".join(texts) for book, texts in books.items()}


def untagged(text):
    text = re.sub(r"(?is)<(script|style|svg)\b.*?</\1>", "", text)
    text = re.sub(r"(?i)<(/?(lb|p|div|l|lg|title|list|item|h\d|li|tr|table|pre|blockquote)|br)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return re.sub(r"\n\s*\n+", "\n\n", re.sub(r"[ \t]+", " ", text)).strip()


def austen(package):
    books = ("sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion")
    library = package.path("usr/lib/R/site-library")
    return {book: output("Rscript", "-e", f"cat(janeaustenr::{book}, sep='\\n')", R_LIBS=library) for book in books}


def melville(package):
    data = package.path("usr/lib/R/site-library/tokenizers/data/Rdata")
    return {"Moby Dick": output("Rscript", "-e", f"e <- new.env(); invisible(lazyLoad('{data}', e)); cat(e$mobydick, sep='\\n')")}


def novels(package):
    """Great Expectations, Twenty Thousand Leagues under the Sea, The War of the Worlds; Austen comes from elsewhere."""
    data = package.path("usr/lib/R/site-library/tidytext/extdata/books.rda")
    lines = output("Rscript", "-e", f"load('{data}'); write.table(books[, c('title', 'text')], sep='\\t', quote=FALSE, "
                   "row.names=FALSE, col.names=FALSE)").split("\n")
    books = {}
    for title, _, text in (line.partition("\t") for line in lines):
        books.setdefault(title, []).append(text)
    return {title: "\n".join(text) for title, text in books.items() if title and title != "Pride and Prejudice"}


def sqlite(package):
    pages = glob.glob(package.path("usr/share/doc/sqlite3/**/*.html"), recursive=True)
    return {os.path.basename(p): untagged(package.read(p)) for p in sorted(pages)
            if os.path.getsize(p) < 250_000 and "crossref" not in p}  # the large ones repeat the diagrams of all others


def one(*parts):
    return lambda package: {parts[-1]: package.read(*parts)}


def twain_and_doyle(package):
    folder = "usr/share/gocode/src/github.com/pierrec/lz4/testdata"
    return {"Tom Sawyer": package.read(folder, "Mark.Twain-Tom.Sawyer.txt"), "Sherlock Holmes": package.read(folder, "pg1661.txt")}


# (package, licence, whether prose to be laid out anew, its documents)
SOURCES = (
    ("r-cran-janeaustenr", "Jane Austen's novels: public domain (the package: MIT)", True, austen),
    ("r-cran-tidytext", "Dickens, Great Expectations; Verne, Twenty Thousand Leagues; Wells, The War of the Worlds: public domain (the package: MIT)",
     True, novels),
    ("r-cran-tokenizers", "Herman Melville, Moby Dick: public domain (the package: MIT)", True, melville),
    ("golang-github-pierrec-lz4-dev", "Mark Twain, Tom Sawyer; A. Conan Doyle, Sherlock Holmes: public domain (the package: BSD)", True, twain_and_doyle),
    ("golang-1.19-src", "Isaac Newton, Opticks: public domain (the package: BSD)", True, one("usr/share/go-1.19/src/testdata/Isaac.Newton-Opticks.txt")),
    ("dict-devil", "Ambrose Bierce, The Devil's Dictionary, 1911: public domain", False, one("usr/share/dictd/devil.dict.dz")),
    ("display-dhammapada", "The Dhammapada, two translations: public domain", False,
     lambda p: {name: p.read("usr/share/display-dhammapada", name) for name in ("dhammapada-english-transl.txt", "dhammapada-alternate.txt")}),
    ("sword-text-web", "World English Bible: public domain", False, lambda p: sword(p, "engWEB2015eb")),
    ("sword-text-kjv", "King James Version: public domain", False, lambda p: sword(p, "engKJV2006eb")),
    ("sword-comm-mhcc", "Matthew Henry, Concise Commentary, 1706: public domain", False, lambda p: sword(p, "MHCC")),
    ("sword-comm-scofield", "C. I. Scofield, Reference Notes, 1917: public domain", False, lambda p: sword(p, "Scofield")),
    ("sword-comm-tdavid", "C. H. Spurgeon, The Treasury of David, 1885: public domain", False, lambda p: sword(p, "TDavid")),
    ("jargon-text", "The Jargon File: public domain", False, one("usr/share/doc/jargon-text/jargon.txt.gz")),
    ("sqlite3-doc", "SQLite's documentation: public domain", False, sqlite),
)


def body(text):
    """A Project Gutenberg file without its head and its tail."""
    text = re.split(r"\*\*\* ?START OF TH\w+ PROJECT GUTENBERG EBOOK[^\n]*\n", text)[-1]
    return re.split(r"(\*\*\* ?END OF TH|End of (the )?Project Gutenberg)", text)[0].strip() + "\n"


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


def flat(data):
    return b" ".join(data.split())


class Sieve:
    """Lets through what of a document shares no run with a text that is to stay unseen."""

    def __init__(self, texts):
        self.plain, self.flat, self.dropped = Unseen(texts), Unseen([flat(t) for t in texts]), 0

    def __call__(self, text):
        kept, piece, size = [], [], 0
        for paragraph in re.split(r"(?<=\n\n)", text) + [None]:
            if piece and (paragraph is None or size + len(paragraph) > PIECE):
                whole = "".join(piece)
                data = whole.encode()
                if self.plain.shares(data) or self.flat.shares(flat(data)):
                    self.dropped += len(data)
                else:
                    kept.append(whole)
                piece, size = [], 0
            if paragraph:
                piece.append(paragraph)
                size += len(paragraph)
        return "".join(kept)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder")
    p.add_argument("--unseen", nargs="*", default=[])
    p.add_argument("--logs", type=int, default=6_000_000, help="bytes of generated logs")
    p.add_argument("--copies", type=int, default=3, help="how often a novel stands there, each time in another layout")
    args = p.parse_args()
    sieve, rng, total = Sieve([read(path) for path in args.unseen]), random.Random(1), 0
    os.makedirs(args.folder, exist_ok=True)
    into = lambda name: open(os.path.join(args.folder, name), "wb")
    with into("train.bin") as train, into("held-books.bin") as held_books, into("held-logs.bin") as held_logs:
        for name, licence, prose, documents in SOURCES:
            size = written = 0
            for title, text in documents(Package(name, os.path.join(args.folder, "packages"))).items():
                text = sieve(body(text))
                if title == HELD:
                    held_books.write(text.encode() + b"\0")
                    continue
                size += len(text.encode())
                for copy in range(args.copies if prose else 1):
                    written += train.write((layout.anew(text, rng) if copy else text).encode() + b"\0")
            total += written
            print(f"{name:30} {size:10} bytes, {written:10} in all  {licence}", flush=True)
        for kind, out, seed, size in (("logs.py", train, 1, args.logs), ("held-logs", held_logs, 2, 100_000)):
            written = sum(out.write(text.encode() + b"\0") for text in logs.documents(size, seed).values())
            print(f"{kind:30} {written:10} bytes  this project's own: Apache-2.0")
        total += train.tell() - total
    print(f"train.bin: {total} bytes; left out, for it shares {RUN} bytes with a text that is to stay unseen: {sieve.dropped}")


if __name__ == "__main__":
    main()
