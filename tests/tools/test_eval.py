"""mambactl eval: figures worked out a second time, from what `mambactl run` says of the same files, and by brute force.
test_eval.py MAMBACTL SIGNAL_MODEL_FOLDER [DATA]"""
import gzip
import json
import lzma
import math
import os
import struct
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

MAMBACTL, HELPERS = os.path.abspath(sys.argv[1]), sys.argv[2]
DATA = os.environ.get("MAMBAD_DATA") or (sys.argv[3] if len(sys.argv) > 3 else "")
sys.argv[1:] = []
sys.path.insert(0, HELPERS)
import signal_model  # noqa: E402

signal_model.QUANTILES = [round(0.1 * k, 1) for k in range(1, 10)]
signal_model.HORIZON = 16
HOME = tempfile.TemporaryDirectory()
MODEL = signal_model.write(os.path.join(HOME.name, "model"))
PATCH = signal_model.PATCH
LEVELS = np.array(signal_model.QUANTILES)
NORMAL = np.array([-1.2815515655446004, -0.8416212335729143, -0.5244005127080409, -0.2533471031357997, 0,
                   0.2533471031357997, 0.5244005127080409, 0.8416212335729143, 1.2815515655446004])
RNG = np.random.default_rng(5)
EX = {"usage": 64, "data": 65, "no_input": 66, "config": 78}


def path(name):
    return os.path.join(HOME.name, name)


def write(name, text):
    data = text.encode()
    os.makedirs(os.path.dirname(path(name)), exist_ok=True)
    data = lzma.compress(data) if name.endswith(".xz") else gzip.compress(data) if name.endswith(".gz") else data
    with open(path(name), "wb") as f:
        f.write(data)
    return path(name)


def table(x, header=None, dates=None, delimiter=","):
    lines = [delimiter.join(header)] if header else []
    for i, row in enumerate(x):
        fields = ["NA" if math.isnan(v) else repr(float(v)) for v in np.atleast_1d(row)]
        lines.append(delimiter.join(([dates[i]] if dates else []) + fields))
    return "\n".join(lines) + "\n"


def call(*args):
    return subprocess.run([MAMBACTL, "eval", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)


def figures(*args):
    done = call(*args, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def wave(n, channels=1):
    t = np.arange(n)[:, None]
    return np.sin(t * (0.21 + 0.05 * np.arange(channels))) * 3 + RNG.normal(size=(n, channels)) + 5


# ---- the protocol of forecasts, once more ------------------------------------------------------------------------------


def pinball(y, q):
    e = y - q
    return np.where(e >= 0, LEVELS * e, (LEVELS - 1) * e).sum()


def carried(x):
    y = np.array(x)
    for i in range(1, len(y)):
        if math.isnan(y[i]):
            y[i] = y[i - 1]
    return y


def origins_of(n, horizon, patch):
    first = n // 2 if n < 1024 else max(n // 10, 512)
    moved = []
    for at in range(first, n, horizon):
        origin = -(-at // patch) * patch
        if origin + horizon <= n and origin not in moved:
            moved.append(origin)
    return moved


def seasonal(y, origin, h, m):
    d = y[m:origin] - y[:origin - m]
    k = -(-h // m)
    return y[origin - 1 + h - m * k], d.std() * math.sqrt(k), abs(d).mean()


def channel_figures(x, season, horizon, patch, forecast):
    """forecast(origin) → [up to horizon][9]; → ratio, MASE, coverage, missing."""
    y, loss, base, errors, inside, points, missing = carried(x), 0, 0, [], [], 0, 0
    for origin in origins_of(len(x), horizon, patch):
        q = forecast(origin)
        for h in range(1, horizon + 1):
            truth = x[origin + h - 1]
            if math.isnan(truth):
                continue
            middle, sigma, mae = seasonal(y, origin, h, season)
            mine = pinball(truth, middle + sigma * NORMAL)
            points += 1
            base += mine
            if h > len(q):
                loss += 5 * mine
                missing += 1
                continue
            loss += pinball(truth, q[h - 1])
            errors.append(abs(truth - q[h - 1][4]) / mae)
            inside.append(q[h - 1][0] <= truth <= q[h - 1][8])
    return min(max(loss / base, 0.05), 5), np.mean(errors), np.mean(inside), missing / points


def run_model(file, family, *args):
    """seq of the first row → data, as `mambactl run` has it."""
    done = subprocess.run([MAMBACTL, "run", "-m", MODEL, "--families", family, *args, file], stdout=subprocess.PIPE,
                          check=True, timeout=120)
    rows = {}
    for line in done.stdout.decode().splitlines():
        m = json.loads(line)
        for i, row in enumerate(m["data"]):
            rows[m["seq"] + i * m["stride"]] = np.array(row, dtype=float)
    return rows


class Forecast(unittest.TestCase):
    def near(self, got, wanted, places=5):
        for key, value in zip(("relative_crps", "mase", "coverage", "missing"), wanted):
            self.assertAlmostEqual(got[key], value, places, key)

    def test_naive_baseline(self):
        x = wave(700)[:, 0]
        x[[3, 400, 401, 555]] = math.nan
        file = write("naive.csv", table(x))
        y = carried(x)

        def naive(origin):
            d = np.diff(y[:origin]).std()
            return [np.float32(y[origin - 1] + d * math.sqrt(h) * NORMAL) for h in range(1, 11)]

        got = figures("forecast", "--baseline", "naive", "--season", "7", "--horizon", "10", file)["series"][0]
        self.near(got, channel_figures(x, 7, 10, 1, naive))
        got = figures("forecast", "--baseline", "naive", "--season", "7", "--horizon", "10", "--patch", "4", file)["series"][0]
        self.near(got, channel_figures(x, 7, 10, 4, naive))

    def test_seasonal_is_one(self):
        file = write("one.csv", table(wave(1500, 2)))
        for season in ("1", "30"):
            got = figures("forecast", "--baseline", "seasonal", "--season", season, "--horizon", "12", file)
            self.assertAlmostEqual(got["total"]["relative_crps"], 1, 5)

    def test_model_as_the_daemon_runs_it(self):
        x = wave(1300)[:, 0]
        x[[600, 601, 950]] = math.nan
        file = write("model.csv", table(x))
        rows = run_model(file, "prediction")
        def ahead(at, horizon):
            rows16 = rows[at][0]
            last, median = rows16[15], rows16[15][4]
            beyond = [[median + (q - median) * math.sqrt(h / 16) for q in last] for h in range(17, horizon + 1)]
            return (list(rows16) + beyond)[:horizon]

        for horizon in (12, 20):  # the model's is 16
            got = figures("forecast", "-m", MODEL, "--season", "30", "--horizon", str(horizon), file)["series"][0]
            self.near(got, channel_figures(x, 30, horizon, PATCH, lambda at, n=horizon: ahead(at, n)))

    def test_clock_as_the_daemon_runs_it(self):
        x = wave(1200)[:, 0]
        gaps = np.cumsum(RNG.integers(1, 4, size=1200))
        dates = [f"2020-{1 + g // 40320:02}-{1 + g // 1440 % 28:02} {g // 60 % 24:02}:{g % 60:02}:00" for g in gaps]
        file = write("clock.csv", table(x, ["time", "value"], dates))
        rows = run_model(file, "prediction")
        got = figures("forecast", "-m", MODEL, "--horizon", "16", file)["series"][0]
        self.near(got, channel_figures(x, 1, 16, PATCH, lambda at: rows[at][0]))

    def test_many_series_and_channels_at_once(self):
        files = [write(f"many/{k}.csv", table(wave(600 + 300 * k, 1 + k % 3))) for k in range(7)]
        together = figures("forecast", "-m", MODEL, "--threads", "4", *files)["series"]
        for file, got in zip(files, together):
            self.assertEqual(got, figures("forecast", "-m", MODEL, "--threads", "1", file)["series"][0])

    def test_linear_beats_naive_on_a_wave(self):
        file = write("linear.csv", table(wave(3000)))
        got = {b: figures("forecast", "--baseline", b, file)["total"]["relative_crps"] for b in ("naive", "linear")}
        self.assertLess(got["linear"], 0.6 * got["naive"])

    def test_flat_channel_is_left_out(self):
        x = np.hstack([np.full((900, 1), 4.0), wave(900)])
        got = figures("forecast", "--baseline", "naive", write("flat.csv", table(x)))["series"][0]
        self.assertEqual((got["channels"], got["left_out"]), (2, 1))
        lone = figures("forecast", "--baseline", "naive", write("lone.csv", table(x[:, 1])))["series"][0]
        self.assertEqual(got["relative_crps"], lone["relative_crps"])

    def test_returns(self):
        prices = np.exp(np.cumsum(RNG.normal(size=1100) * 0.01))
        suite = {"series": [{"files": "prices.csv", "returns": True, "season": 1, "horizon": 1}]}
        write("prices.csv", table(prices))
        write("returns.csv", table(np.diff(np.log(prices))))
        got = figures("forecast", "--baseline", "linear", "--suite", write("r.json", json.dumps(suite)), "--data", HOME.name)
        direct = figures("forecast", "--baseline", "linear", "--season", "1", "--horizon", "1", path("returns.csv"))
        self.assertAlmostEqual(got["series"][0]["loss"], direct["series"][0]["loss"], 9)

    def test_long_horizons(self):
        x = wave(900, 2)
        suite = {"series": [{"files": "long.csv", "train_rows": 400, "test_rows": [600, 800], "horizons": [8, 16, 24, 1028]}]}
        write("long.csv", table(x))
        args = ("forecast", "--protocol", "ltsf", "--suite", write("long.json", json.dumps(suite)), "--data", HOME.name)
        z = (x - x[:400].mean(0)) / x[:400].std(0)
        for h in figures(*args, "--baseline", "naive")["series"][0]["horizons"][:3]:
            n = h["horizon"]
            e = np.array([z[at:at + n] - z[at - 1] for at in range(600, 800 - n + 1)])
            self.assertAlmostEqual(h["mse"], (e ** 2).mean(), 5)
            self.assertAlmostEqual(h["mae"], abs(e).mean(), 5)
            self.assertEqual(h["windows"], 2 * (200 - n + 1))
        mine = figures(*args, "-m", MODEL)["series"][0]["horizons"]
        self.assertEqual([h["windows"] for h in mine], [2 * 49, 2 * 47, 2 * 45, 0])
        self.assertIsNone(mine[3]["mse"])


# ---- detection -----------------------------------------------------------------------------------------------------------


def average_precision(score, label):
    total, before = 0, 0
    for threshold in sorted(set(score), reverse=True):
        hit = label[score >= threshold]
        total += (hit.sum() - before) * hit.mean()
        before = hit.sum()
    return total / label.sum()


def volume(score, label, window):
    """VUS-PR by its definition."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], label, [0]])))
    segments, n = list(zip(edges[::2], edges[1::2] - 1)), len(score)
    ordered, areas = -np.sort(-score), []
    for w in range(window + 1):
        soft, half = label.astype(float), w // 2
        for first, last in segments:
            for d in range(1, half + 1):
                if last + d < n:
                    soft[last + d] += math.sqrt(1 - d / w)
                if first - d >= 0:
                    soft[first - d] += math.sqrt(1 - d / w)
        soft = np.minimum(soft, 1)
        buffered = []
        for first, last in segments:
            if buffered and buffered[-1][1] >= first - half:
                buffered[-1][1] = last + half
            else:
                buffered.append([max(first - half, 0), last + half])
        area = before = 0
        for i in np.linspace(0, n - 1, 250).astype(int):
            hit = score >= ordered[i]
            tp, extra = (soft * hit).sum(), (soft * hit)[label == 0].sum()
            share = np.mean([hit[first:last + 1].any() for first, last in buffered])
            recall = min(tp / (label.sum() + extra / 2), 1) * share
            area += (recall - before) * tp / hit.sum()
            before = recall
        areas.append(area)
    return np.mean(areas)


def labels(n, *segments):
    out = np.zeros(n, int)
    for first, last in segments:
        out[first:last + 1] = 1
    return out


class Anomaly(unittest.TestCase):
    def test_scores_made_elsewhere(self):
        label = labels(500, (100, 120), (126, 130), (300, 300), (490, 499))
        score = np.round(RNG.normal(size=500) + 1.5 * label, 1)  # with ties
        write("s/x.csv", table(wave(500)))
        write("s/x.txt.xz", "".join(f"{v}\n" for v in label))
        write("scores/s/x.txt.gz", "".join(f"{v}\n" for v in score))
        suite = {"series": [{"family": "f", "files": "s/*.csv", "labels": "s/*.txt.xz", "step": 60}]}
        got = figures("anomaly", "--scores", path("scores"), "--vus-window", "9", "--threshold", "2", "--suite",
                      write("s.json", json.dumps(suite)), "--data", HOME.name)["series"][0]
        self.assertAlmostEqual(got["auprc"], average_precision(score, label), 6)
        self.assertAlmostEqual(got["vus_pr"], volume(score, label, 9), 6)
        hit = score >= 2
        f1 = 2 * label[hit].sum() / (hit.sum() + label.sum())
        self.assertAlmostEqual(got["f1"], f1, 6)
        self.assertAlmostEqual(got["false_row_rate"], hit[label == 0].mean(), 6)

    def test_model_as_the_daemon_runs_it(self):
        x = wave(800, 2)
        x[500:520, 1] += 25
        label = labels(800, (500, 519))
        file = write("spike.csv", table(np.hstack([x, label[:, None]]), ["a", "b", "bad"]))
        write("spike-only.csv", table(x, ["a", "b"]))
        rows = run_model(path("spike-only.csv"), "anomaly")
        p = np.array([rows[i][1] if i in rows else math.nan for i in range(800)])
        got = figures("anomaly", "-m", MODEL, "--label", "bad", "--unscored", "100", "--threshold", "2", file)["series"][0]
        score = np.where(np.isnan(p), 0, -np.log10(np.where(np.isnan(p), 1, np.maximum(p, 1e-38))))[100:]
        self.assertAlmostEqual(got["auprc"], average_precision(score, label[100:]), 4)
        self.assertEqual(got["rows"], 700)
        self.assertAlmostEqual(got["false_row_rate"], (score >= 2)[label[100:] == 0].mean(), 4)

    def test_nab_of_alarms(self):
        """One start a window and none elsewhere is all but perfect, though the rows around it are charged."""
        x = wave(2400)
        x[1500:1504] += 40
        label = labels(2400, (1490, 1560))
        suite = {"series": [{"files": "nab-alarm.csv", "labels": "nab-alarm.txt", "nab": True}]}
        write("nab-alarm.csv", table(x))
        write("nab-alarm.txt", "".join(f"{v}\n" for v in label))
        got = figures("anomaly", "-m", MODEL, "--suite", write("nab-alarm.json", json.dumps(suite)), "--data", HOME.name)["nab"]
        for profile in ("standard", "low_fp", "low_fn"):
            alarms = got[profile]["alarms"]
            self.assertGreaterEqual(alarms["score"], 85)
            self.assertTrue(1 < alarms["threshold"] < 5.1)

    def test_train_comes_first_without_a_reset(self):
        x = wave(900)
        label = labels(400, (150, 170))
        x[650:671] += 9
        write("t/whole.csv", table(x))
        for name, rows in (("train", x[:500]), ("test", x[500:])):
            write(f"t/a.{name}.csv", table(rows))
        write("t/a.label.txt", "".join(f"{v}\n" for v in label))
        suite = {"series": [{"files": "t/*.test.csv", "train": "t/*.train.csv", "labels": "t/*.label.txt"}]}
        got = figures("anomaly", "-m", MODEL, "--suite", write("t.json", json.dumps(suite)), "--data", HOME.name)["series"][0]
        rows = run_model(path("t/whole.csv"), "anomaly")
        score = np.array([-math.log10(rows[i][1]) for i in range(500, 900)])
        self.assertAlmostEqual(got["auprc"], average_precision(score, label), 4)
        self.assertEqual(got["rows"], 400)

    def test_forms_of_labels(self):
        n, wanted = 300, labels(300, (40, 60), (200, 220))
        score = wave(n)[:, 0]
        dates = [f"2020-01-01 {i // 60:02}:{i % 60:02}:00" for i in range(n)]
        write("forms/w.csv", table(score, ["time", "value"], dates))
        write("forms/A-1.csv", table(score))
        write("forms/semicolon.csv", table(np.column_stack([score, wanted]), ["v", "bad"], None, ";"))
        write("windows.json", json.dumps({"w.csv": [["2020-01-01 00:40:00.000000", "2020-01-01 01:00:00.000000"],
                                                    ["2020-01-01 03:20:00", "2020-01-01 03:40:00"]]}))
        write("ranges.csv", 'chan_id,sequences,class\nA-1,"[[40, 60]]",x\nA-2,"[[0, 9]]",x\nA-1,"[[200, 220]]",x\n')
        for name in ("w", "A-1", "semicolon"):
            write(f"forms-scores/forms/{name}.txt", "".join(f"{v}\n" for v in score))
        suite = {"series": [{"files": "forms/w.csv", "labels": "windows.json"}, {"files": "forms/A*.csv", "labels": "ranges.csv"},
                            {"files": "forms/semicolon.csv", "label": "bad"}]}
        got = figures("anomaly", "--scores", path("forms-scores"), "--suite", write("f.json", json.dumps(suite)), "--data",
                      HOME.name)["series"]
        self.assertEqual(len(got), 3)
        for one in got:
            self.assertEqual(one["segments"], 2, one["name"])
            self.assertAlmostEqual(one["auprc"], average_precision(score, wanted), 6, one["name"])

    def test_alarms_are_the_daemons(self):
        """Two hits 10 rows apart are one alarm, for it takes 16 calm rows to end; a hit far off is a false alarm."""
        label = labels(400, (100, 130))
        score = np.zeros(400)
        score[[105, 115, 300]] = 5
        write("a.csv", table(wave(400)))
        write("a.txt", "".join(f"{v}\n" for v in label))
        write("alarm-scores/a.txt", "".join(f"{v}\n" for v in score))
        suite = {"series": [{"files": "a.csv", "labels": "a.txt", "step": 86.4}]}
        got = figures("anomaly", "--scores", path("alarm-scores"), "--suite", write("a.json", json.dumps(suite)), "--data",
                      HOME.name)["series"][0]
        self.assertEqual((got["alarms"], got["false_alarms"], got["found"]), (2, 1, 1))
        self.assertAlmostEqual(got["delay_rows"], 5)
        self.assertAlmostEqual(got["false_alarms_per_day"], 1 / 0.4, 5)
        self.assertAlmostEqual(got["alarm_f1"], 2 * 11 / (12 + 31), 5)


# ---- files, errors, pictures -----------------------------------------------------------------------------------------


class Files(unittest.TestCase):
    def test_packing_and_formats(self):
        x = np.round(wave(800, 2), 3)
        text = table(x)
        crps = {}
        for name in ("p.csv", "p.csv.xz", "p.csv.gz"):
            crps[name] = figures("forecast", "--baseline", "naive", write(name, text))["series"][0]["relative_crps"]
        with h5py.File(path("p.h5"), "w") as f:
            f["set"] = x
        crps["h5"] = figures("forecast", "--baseline", "naive", path("p.h5") + ":/set")["series"][0]["relative_crps"]
        self.assertEqual(len(set(crps.values())), 1, crps)

    def test_wfdb(self):
        x = np.clip(np.round(wave(800, 2) * 100), -2047, 2047).astype(int)
        x[700, 1] = -2048
        data = b""
        for a, b in x & 0xfff:
            data += struct.pack("BBB", a & 0xff, (a >> 8) | (b >> 8) << 4, b & 0xff)
        with open(path("rec.dat"), "wb") as f:
            f.write(data)
        write("rec.hea", "# comment\nrec 2 360 800\nrec.dat 212 200 11 1024 0 0 0 A\nrec.dat 212 200 11 1024 0 0 0 B\n")
        values = x.astype(float)
        values[700, 1] = math.nan
        same = figures("forecast", "--baseline", "naive", write("rec.csv", table(values)))["series"][0]
        got = figures("forecast", "--baseline", "naive", path("rec.dat"))["series"][0]
        self.assertEqual(got["relative_crps"], same["relative_crps"])

    def refused(self, code, about, *args):
        done = call(*args)
        self.assertEqual(done.returncode, EX[code], done.stderr)
        self.assertIn(about, done.stderr.decode())
        self.assertEqual(done.stdout, b"")

    def test_errors(self):
        good = write("good.csv", table(wave(300)))
        self.refused("data", "bad.csv:3: no number: x", "forecast", "--baseline", "naive", write("bad.csv", "1\n2\nx\n"))
        self.refused("data", "cut.csv.xz", "forecast", "--baseline", "naive", self.cut(write("cut.csv.xz", table(wave(900)))))
        self.refused("data", "fields: 1, where the first line has 2", "forecast", "--baseline", "naive",
                     write("fields.csv", "1,2\n3,4\n5\n"))
        self.refused("no_input", "nowhere.csv", "forecast", "--baseline", "naive", path("nowhere.csv"))
        self.refused("data", "no labels", "anomaly", "--baseline", "gaussian", good)
        self.refused("config", "no column 'z'", "forecast", "--baseline", "naive", "--columns", "z", good)
        self.refused("config", "'colour': no such key", "forecast", "--baseline", "naive", "--suite",
                     write("bad.json", '{"series": [{"files": "*.csv", "colour": 1}]}'))
        self.refused("config", "bad2.json:1", "forecast", "--baseline", "naive", "--suite", write("bad2.json", "{"))
        self.refused("usage", "one of -m", "forecast", good)
        self.refused("usage", "no such baseline", "forecast", "--baseline", "gaussian", good)
        self.refused("usage", "usage:", "forecast", "--nonsense", good)
        self.refused("no_input", "no_such_model", "forecast", "-m", path("no_such_model"), good)

    def cut(self, file):
        with open(file, "r+b") as f:
            f.truncate(os.path.getsize(file) // 2)
        return file

    def test_pictures(self):
        os.makedirs(path("plots"))
        x = wave(800)
        label = labels(800, (500, 519))
        file = write("drawn.csv", table(np.hstack([x, label[:, None]]), ["a", "bad"]))
        figures("forecast", "-m", MODEL, "--drop", "bad", "--plot", path("plots"), file)
        name, = os.listdir(path("plots"))
        self.assertTrue(name.endswith("drawn.png"))
        os.remove(os.path.join(path("plots"), name))
        figures("anomaly", "-m", MODEL, "--label", "bad", "--plot", path("plots"), file)
        with open(os.path.join(path("plots"), name), "rb") as f:
            self.assertEqual(f.read(8), b"\x89PNG\r\n\x1a\n")


# ---- published figures, where the data are ------------------------------------------------------------------------------


@unittest.skipUnless(os.path.isdir(os.path.join(DATA, "ltsf")), "no data")
class Published(unittest.TestCase):
    def test_long_horizon_floors(self):
        """Repeat-last on ETTh1 and illness, as the manifest has them."""
        suite = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "eval", "ltsf.json")
        floors = {"ltsf/ETTh1": [(1.294, 0.713), (1.325, 0.733), (1.330, 0.746), (1.335, 0.755)],
                  "ltsf/national_illness": [(6.213, 1.622), (7.714, 1.906), (7.851, 1.952), (6.885, 1.788)]}
        for name, wanted in floors.items():
            got = figures("forecast", "--protocol", "ltsf", "--baseline", "naive", "--suite", suite, "--data", DATA, "--only", name)
            for h, (mse, mae) in zip(got["series"][0]["horizons"], wanted):
                self.assertAlmostEqual(h["mse"], mse, delta=6e-4)
                self.assertAlmostEqual(h["mae"], mae, delta=6e-4)

    def test_windowed_gaussian_on_nab(self):
        """The published threshold is a score that is 1 to twelve digits; the profiles' scores with it are the manifest's."""
        suite = {"series": [{"files": "nab/data/*/*.csv.xz", "labels": "nab/labels/combined_windows.json", "nab": True}]}
        got = figures("anomaly", "--baseline", "gaussian", "--suite", write("nab.json", json.dumps(suite)), "--data", DATA)["nab"]
        self.assertGreater(got["standard"]["score"], 32.2)  # the best threshold for these files is no worse
        self.assertGreater(got["low_fp"]["score"], 10.6)
        self.assertGreater(got["low_fn"]["score"], 40.5)
        self.assertLess(got["standard"]["score"], 36)


if __name__ == "__main__":
    unittest.main()
