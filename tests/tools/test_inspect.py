"""mambactl inspect: model folders, JSON lines, HDF5. argv: MAMBACTL, the folder of golden models."""
import json
import os
import subprocess
import sys
import tempfile

MAMBACTL, GOLDEN = sys.argv[1:3]


def inspect(*args):
    done = subprocess.run([MAMBACTL, "inspect", *args], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def document(path):
    code, out, err = inspect("--json", path)
    assert code == 0, err
    return json.loads(out)


def check_model():
    doc = document(os.path.join(GOLDEN, "bias-untied"))
    assert (doc["kind"], doc["name"], doc["type"], doc["input"]) == ("model", "bias-untied", "mamba", "tokens"), doc
    assert (doc["n_layer"], doc["d_inner"], doc["dt_rank"], doc["stored"]) == (2, 40, 5, "fp32"), doc
    assert doc["heads"] == {"logits": {"vocab": 33}}, doc
    sections = {s["name"]: s["bytes"] for s in doc["slot"]["sections"]}
    assert sections["conv"] == 2 * 2 * 40 * 4 and sections["ssm"] == 2 * 8 * 40 * 4, sections
    assert doc["slot"]["bytes"] == sum(sections.values())
    assert doc["ops"]["fp32"][-1] == "ref"
    code, out, _ = inspect(os.path.join(GOLDEN, "bias-untied"))
    assert code == 0 and "9580 parameters" in out and "over 33 tokens" in out, out
    code, out, _ = inspect(os.path.join(GOLDEN, "bytes"))
    assert code == 0 and "over 256 bytes" in out, out


def check_lines(folder):
    path = os.path.join(folder, "out.jsonl")
    message = {"v": 1, "stream": "a/ä", "seq": 16, "stride": 16, "span": 64, "out_seq": 0, "shape": [2, 1, 64, 9]}
    lines = [
        {"topic": "prediction/a%2F%C3%A4/", **message, "warmup": True},
        {"topic": "prediction/a%2F%C3%A4/", **message, "seq": 48, "out_seq": 2, "shape": [1, 1, 64, 9]},
        {"topic": "prediction/a%2F%C3%A4/", **message, "seq": 96, "out_seq": 5, "shape": [1, 1, 64, 9]},
        {"topic": "event/a%2F%C3%A4/", "stream": "a/ä", "event": "gap", "seq": 96},
        {"topic": "sys/heartbeat/", "run": 1},
    ]
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
    doc = document(path)
    assert doc["lines"] == 5 and len(doc["series"]) == 3, doc
    prediction = doc["series"][0]
    assert (prediction["stream"], prediction["messages"], prediction["rows"]) == ("a/ä", 3, 4), prediction
    assert (prediction["from_seq"], prediction["to_seq"], prediction["warmup_rows"], prediction["breaks"]) == (16, 160, 2, 1)
    assert doc["series"][1]["events"] == {"gap": 1}
    code, out, _ = inspect(path)
    assert code == 0 and "seq 16 to 160" in out and "breaks in out_seq: 1" in out, out
    with open(path, "a", encoding="utf-8") as f:
        f.write('{"no": "topic"}\n')
    code, _, err = inspect(path)
    assert code == 65 and "out.jsonl:6:" in err, err


def check_hdf5(folder):
    try:
        import h5py
        import numpy
    except ImportError:
        print("no h5py: HDF5 not checked")
        return
    path = os.path.join(folder, "out.h5")
    with h5py.File(path, "w") as f:
        f["ecg"] = numpy.zeros((10, 2), "f4")
        f["group/rows"] = numpy.zeros(5, [("seq", "i8"), ("p", "f4")])
    code, out, err = inspect("--json", path)
    if code == 69:
        print(err)
        return
    tables = {t["path"]: t for t in json.loads(out)["tables"]}
    assert tables["/ecg"]["shape"] == [10, 2] and tables["/ecg"]["type"] == "float32", tables
    assert tables["/group/rows"]["fields"] == ["seq", "p"], tables
    with open(path, "r+b") as f:
        f.truncate(100)
    assert inspect(path)[0] == 65


def check_errors(folder):
    assert inspect()[0] == 64 and inspect("a", "b")[0] == 64 and inspect("--nonsense", "a")[0] == 64
    assert inspect(os.path.join(folder, "absent"))[0] == 66
    code, _, err = inspect(folder)
    assert code == 78 and "config.json" in err, err
    picture = os.path.join(folder, "picture.h5")
    with open(picture, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + bytes(64))
    code, _, err = inspect(picture)
    assert code == 65 and "picture.h5: neither HDF5, a snapshot nor JSON lines" in err, err


with tempfile.TemporaryDirectory() as temporary:
    check_errors(temporary)
    check_model()
    check_lines(temporary)
    check_hdf5(temporary)
