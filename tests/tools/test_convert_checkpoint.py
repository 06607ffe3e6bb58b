"""tools/convert_checkpoint.py: a pickled checkpoint, whole, wrapped or in shards, becomes the folder that it was made of; one that would
execute something, is cut off, or is none, is refused and nothing is written. test_convert_checkpoint.py CONVERTER MAMBACTL GOLDEN_FOLDER"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

CONVERTER, MAMBACTL, MODEL = sys.argv[1:4]
try:
    import torch
    from safetensors.torch import load_file
except ImportError:
    torch = None


class Executes:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class Convert(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="mambad-test-convert-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.out = os.path.join(self.dir, "out")
        shutil.copy(os.path.join(MODEL, "config.json"), self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def convert(self, *arguments):
        return subprocess.run([sys.executable, CONVERTER, self.dir, self.out, *arguments], capture_output=True, text=True)

    def refused(self, code, text):
        result = self.convert()
        self.assertEqual((result.returncode, "Traceback" in result.stderr), (code, False), result.stderr)
        self.assertIn(text, result.stderr)
        self.assertFalse(os.path.exists(self.out))

    @unittest.skipIf(torch, "PyTorch is installed")
    def test_without_torch(self):
        self.refused(os.EX_UNAVAILABLE, "needs torch 2.6 or later and safetensors")


@unittest.skipUnless(torch, "PyTorch is not installed")
class WithTorch(Convert):
    def setUp(self):
        super().setUp()
        self.want = load_file(os.path.join(MODEL, "model.safetensors"))

    def same(self, *arguments, dtype=None):
        result = self.convert(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        got = load_file(os.path.join(self.out, "model.safetensors"))
        self.assertEqual(sorted(got), sorted(self.want))
        for name, tensor in self.want.items():
            self.assertTrue(torch.equal(got[name], tensor.to(dtype) if dtype else tensor), name)
        inspected = subprocess.run([MAMBACTL, "inspect", self.out], capture_output=True, text=True)
        self.assertEqual(inspected.returncode, 0, inspected.stderr)

    def test_one_file(self):
        torch.save(self.want, self.path("pytorch_model.bin"))
        self.same()

    def test_wrapped_and_as_bf16(self):
        torch.save({"model": self.want}, self.path("pytorch_model.bin"))
        self.same("--dtype", "bf16", dtype=torch.bfloat16)

    def test_shards(self):
        names = sorted(self.want)
        places = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
        for file in set(places.values()):
            torch.save({n: self.want[n] for n in names if places[n] == file}, self.path(file))
        with open(self.path("pytorch_model.bin.index.json"), "w", encoding="utf-8") as index:
            json.dump({"weight_map": places}, index)
        self.same()

    def test_nothing_is_executed(self):
        torch.save({**self.want, "x": Executes(self.path("executed"))}, self.path("pytorch_model.bin"))
        self.refused(os.EX_DATAERR, "pytorch_model.bin: no checkpoint of tensors alone")
        self.assertFalse(os.path.exists(self.path("executed")))

    def test_what_is_no_checkpoint(self):
        file = self.path("pytorch_model.bin")
        self.refused(os.EX_NOINPUT, "no such file")
        torch.save(self.want, file)
        whole = os.path.getsize(file)
        for size in (0, 10, whole // 2, whole - 1):
            torch.save(self.want, file)
            os.truncate(file, size)
            self.refused(os.EX_DATAERR, "pytorch_model.bin: no checkpoint of tensors alone")
        torch.save([1, 2], file)
        self.refused(os.EX_DATAERR, "no table of tensors")
        torch.save({"a": torch.zeros(3)}, file)
        self.refused(os.EX_DATAERR, "is this a Mamba checkpoint?")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
