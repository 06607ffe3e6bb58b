"""The layouts that plain-text books come in: a byte model that has seen a novel in one of them alone is surprised by every line end
of another. `anew` gives a text another one, drawn at random: line width, indent, line end, quotation marks, spaces between sentences."""
import re
import textwrap

QUOTES = (None, None, ("`", "'"), ("``", "''"), ("“", "”"), ("'", "'"))  # in place of straight double ones


def quoted(text, marks):
    opened = re.sub(r'(^|[\s(\[—-])"(?=\S)', lambda m: m.group(1) + marks[0], text)
    return opened.replace('"', marks[1])


def anew(text, rng):
    width, indent = rng.choice((None, 58, 62, 65, 68, 70, 72, 75, 78)), " " * rng.choice((0, 0, 0, 2, 2, 3, 4, 5))
    wide, blank = rng.random() < 0.5, rng.random() < 0.7 or not indent
    marks = rng.choice(QUOTES)
    out = []
    for paragraph in re.split(r"\n[ \t]*\n\s*?(?=\S|[ \t]+\S)", text):
        lines = paragraph.strip("\n").split("\n")
        verse = any(line[:1] in " \t" for line in lines) or max(map(len, lines)) < 50
        flowing = " ".join(line.strip() for line in lines)
        if marks:
            flowing, lines = quoted(flowing, marks), [quoted(line, marks) for line in lines]
        if verse:
            out.append("\n".join(lines))
            continue
        flowing = re.sub(r"(?<=[a-z][.!?:])(['\"’”]*) +(?=\S)", r"\1  " if wide else r"\1 ", flowing)
        out.append(textwrap.fill(flowing, width, initial_indent=indent, break_long_words=False, break_on_hyphens=False) if width
                   else indent + flowing)
    joined = ("\n\n" if blank else "\n").join(out) + "\n"
    return joined.replace("\n", "\r\n") if rng.random() < 0.5 else joined
