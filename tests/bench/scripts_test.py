"""bench/*.py without data sets, peers or fio: what they refuse, what they compute, what their tables say."""

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
for folder in (BENCH, BENCH / "peers", BENCH / "limits", BENCH / "profiles"):
    sys.path.insert(0, str(folder))

import common  # noqa: E402
import compare  # noqa: E402
import limits  # noqa: E402
import plot  # noqa: E402
import retinanet  # noqa: E402
import run as peers  # noqa: E402
import tar_shards  # noqa: E402


def result(mb_per_s, cpu=1.0, **more):
    return {"samples_per_s": 10 * mb_per_s, "mb_per_s": mb_per_s, "cpu_s_per_gb": cpu, "next_p50_us": 5, "next_p99_us": 9, **more}


class DataSet:
    """A folder of files with its list and proof."""

    def __init__(self, contents):
        self.scratch = tempfile.TemporaryDirectory()
        self.root = os.path.join(self.scratch.name, "set")
        os.makedirs(os.path.join(self.root, "a"))
        with open(self.root + ".list", "w", encoding="ascii") as names:
            for i, data in enumerate(contents):
                with open(os.path.join(self.root, "a", f"{i}.bin"), "wb") as file:
                    file.write(data)
                names.write(f"{len(data)}\ta/{i}.bin\n")
        common.write_proof(self.root)


CONTENTS = [bytes([i]) * 40 + bytes(range(i + 1)) for i in range(20)] + [b"", b"abc"]


class PeersJob(unittest.TestCase):
    def setUp(self):
        self.data = DataSet(CONTENTS)
        self.addCleanup(self.data.scratch.cleanup)

    def run_job(self, batches, *arguments):
        out = io.StringIO()
        job = common.Job("test", "files", [("workers", 2, "threads")], arguments=[self.data.root, "--batch", "5", *arguments])
        with contextlib.redirect_stdout(out):
            job.run(lambda: lambda epoch: iter(batches))
        return json.loads(out.getvalue())

    def test_a_complete_epoch_is_reported_with_the_fields_that_compare_wants(self):
        report = self.run_job([CONTENTS[12:], CONTENTS[:12]], "--epochs", "2", "--workers", "3")
        for field in (*compare.FIELDS, *compare.OPTIONAL_FIELDS):
            self.assertGreaterEqual(report[field], 0, field)
        self.assertEqual((report["samples"], report["bytes"]), (len(CONTENTS), sum(map(len, CONTENTS))))
        self.assertEqual((report["epochs"], report["settings"]), (2, {"workers": 3}))

    def test_views_count_as_bytes(self):
        self.assertEqual(self.run_job([[memoryview(data) for data in CONTENTS]])["samples"], len(CONTENTS))

    def test_a_lost_sample_ends_the_program(self):
        with self.assertRaisesRegex(SystemExit, "1 missing"):
            self.run_job([CONTENTS[1:]])

    def test_a_doubled_sample_ends_the_program(self):
        with self.assertRaisesRegex(SystemExit, "0 missing, 1 that"):
            self.run_job([CONTENTS + CONTENTS[:1]])

    def test_a_sample_cut_short_ends_the_program(self):
        with self.assertRaisesRegex(SystemExit, "1 missing, 1 that"):
            self.run_job([CONTENTS[:3] + [CONTENTS[3][:-1]] + CONTENTS[4:]])

    def test_a_sample_whose_end_was_never_read_ends_the_program(self):
        with self.assertRaisesRegex(SystemExit, "1 missing, 1 that"):
            self.run_job([CONTENTS[:3] + [CONTENTS[3][:-8] + bytes(8)] + CONTENTS[4:]])

    def test_reach_tells_a_shuffle_from_none(self):
        expected = [common.proof_of(i.to_bytes(8, "little")) for i in range(2000)]
        self.assertEqual(common.check(expected, expected), 0)
        order = list(range(2000))
        common.random.Random(3).shuffle(order)
        self.assertAlmostEqual(common.check([expected[i] for i in order], expected), 1, delta=0.1)

    def test_a_packed_form_is_wanted_before_it_is_read(self):
        job = common.Job("test", "tar", converts=True, arguments=[self.data.root])
        with self.assertRaisesRegex(SystemExit, "--convert first"):
            job.convert(lambda folder: None)

    def test_the_index_of_a_tar_shard_points_at_the_samples(self):
        job = common.Job("test", "tar", converts=True, arguments=[self.data.root, "--convert"])
        self.assertTrue(job.convert(lambda folder: tar_shards.write(job, folder, index=True)))
        folder = pathlib.Path(job.packed)
        shard = (folder / "00000.tar").read_bytes()
        head, *lines = (folder / "00000.idx").read_text().splitlines()
        self.assertEqual(head, f"v1.2 {len(CONTENTS)}")
        for line, data in zip(lines, CONTENTS):
            _, at, size, _ = line.split()
            self.assertEqual(shard[int(at):int(at) + int(size)], data)

    def test_cpu_time_of_a_running_child_counts(self):
        import subprocess
        before = common.cpu_seconds()
        child = subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        running = common.cpu_seconds() - before
        child.communicate(b"\n")
        self.assertGreater(running, 0.25)
        self.assertGreaterEqual(common.cpu_seconds() - before, running - 0.02)


class Compare(unittest.TestCase):
    def arguments(self, *words):
        before, sys.argv = sys.argv, ["compare.py", *words]
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return compare.parse_arguments()
        finally:
            sys.argv = before

    def test_bad_arguments_are_refused(self):
        for words in (["a"], ["a=true", "a=true"], ["a=true", "--limit", "b"], ["a=true", "--absent", "b"], ["a=true", "--absent", "a=why"],
                      ["a=true", "--continue"], ["a=true", "--touch", "b=/x"], ["a=true", "--cold", "--touch", "a=/x"],
                      ["a=true", "--against", "b"], ["a=true", "--disk", "/proc"], ["a=true", "--disk", "/no such folder"]):
            with self.assertRaises(SystemExit, msg=words):
                self.arguments(*words)

    def test_the_fastest_is_not_sought_among_the_limits(self):
        self.assertEqual(self.arguments("a=true", "b=true", "--limit", "b").reference_names, ["a"])

    def test_the_share_of_the_limit_is_paired_with_the_fastest_limit(self):
        runs = {"a": [result(50), result(80)], "slow": [result(60), result(60)], "fast": [result(100), result(200)]}
        reference, rows = compare.summarise(runs, ["a"], 1, ["slow", "fast"], {"a": {"peak_memory_bytes": 2e6, "peak_mapped_bytes": 3e8}})
        self.assertEqual((reference, rows[0]["limit_share"]), ("a", 0.45))
        table = compare.markdown("t", "c", reference, rows, {}, {"b": "no | wheel\nhere"})
        self.assertIn("| share of limit |", table)
        self.assertIn("2 (+300)", table)
        self.assertIn("| b | not measured: no / wheel here |", table)

    def test_columns_that_nobody_fills_are_left_out(self):
        reference, rows = compare.summarise({"a": [result(1)], "b": [result(2, first_batch_s=0.5)]}, ["a", "b"], 1)
        table = compare.markdown("", "c", reference, rows, {})
        self.assertEqual(reference, "b")
        self.assertIn("first batch s", table)
        self.assertNotIn("limit", table)
        self.assertNotIn("peak", table)

    def test_what_the_drive_did_is_shown(self):
        runs = {"a": [result(1, disk_reads=5000, disk_merges=0, disk_read_mb=80.0)], "b": [result(2, disk_reads=70, disk_merges=4930)]}
        reference, rows = compare.summarise(runs, ["a"], 1)
        table = compare.markdown("", "c", reference, rows, {})
        self.assertIn("| disk reads | merged before | disk MB |", table)
        self.assertIn("| 5,000 | 0 | 80 |", table)
        self.assertIn("| 70 | 4,930 |  |", table)

    def test_a_failing_arm_says_what_it_printed(self):
        with self.assertRaisesRegex(compare.ArmFailed, "exit status 3"):
            compare.run_once("x", ["sh", "-c", "exit 3"], 10)
        with self.assertRaisesRegex(compare.ArmFailed, "no JSON"):
            compare.run_once("x", ["echo", "{}"], 10)
        with self.assertRaisesRegex(compare.ArmFailed, "timed out"):
            compare.run_once("x", ["sleep", "60"], 0.2, memory=True)

    def test_memory_is_that_of_the_whole_tree(self):
        grow = "import time; block = b'x' * (64 << 20); time.sleep(0.6)"
        code = f"import subprocess, sys, json; subprocess.run([sys.executable, '-c', {grow!r}]); print(json.dumps({result(1)!r}))"
        report = compare.run_once("x", [sys.executable, "-c", code], 60, memory=True)
        self.assertGreater(report["peak_memory_bytes"], 64 << 20)

    def test_rounds_are_added_to_those_before_and_a_failing_arm_stays_out(self):
        with tempfile.TemporaryDirectory() as folder:
            before, compare.results_folder = compare.results_folder, lambda: folder
            argv = sys.argv
            try:
                arm = f"a={sys.executable} -c 'print({json.dumps(json.dumps(result(7)))})'"
                for more in ([], ["--continue"]):
                    sys.argv = ["compare.py", "--rounds", "2", "--warm-ups", "0", "--leave-out", "--out", "r", *more, arm, "b=false"]
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        compare.main()
            finally:
                compare.results_folder, sys.argv = before, argv
            document = json.loads(pathlib.Path(folder, "r.json").read_text())
        self.assertEqual((document["rounds"], len(document["runs"]["a"]), list(document["runs"])), (4, 4, ["a"]))
        self.assertIn("b", document["absent"])


class Peers(unittest.TestCase):
    def test_every_peer_has_a_program_and_its_environment_pinned_requirements(self):
        for name, (environment, _) in peers.PEERS.items():
            self.assertTrue((BENCH / "peers" / f"{name}.py").exists(), name)
            lines = (BENCH / "peers" / "requirements" / f"{environment}.txt").read_text().splitlines()
            for line in lines:
                self.assertRegex(line, r"^#|^[A-Za-z0-9._-]+==[0-9]", environment)

    def test_an_unknown_peer_is_refused(self):
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            peers.parse_arguments(["/x", "--peers", "nobody"])

    def test_settings_of_the_kind_and_state_win_over_general_ones(self):
        kept = peers.PEERS["dali_tar"]
        peers.PEERS["dali_tar"] = ("dali", {"all": "--queue 1", "small": "--queue 2", ("small", "cold"): "--queue 3"})
        try:
            got = [peers.peer_settings("dali_tar", *at)[1] for at in (("large", False), ("small", False), ("small", True))]
        finally:
            peers.PEERS["dali_tar"] = kept
        self.assertEqual(got, ["1", "2", "3"])

    def test_samples_of_one_size_are_packed_for_penstock_too(self):
        data = DataSet([b"12345678", b"abcdefgh"])
        tool = data.root + ".tool"
        with open(tool, "w", encoding="ascii") as file:
            file.write(f'#!/bin/sh\necho "$@" > {tool}.called\n')
        os.chmod(tool, 0o755)
        peers.make_records(data.root, tool)
        with open(os.path.join(data.root + ".records", "records.raw"), "rb") as file:
            self.assertEqual(file.read(), b"12345678abcdefgh")
        with open(tool + ".called", encoding="ascii") as file:
            self.assertEqual(file.read().split(), ["index", data.root + ".records", "--format", "raw", "--record-bytes", "8"])

    def test_samples_of_several_sizes_are_not(self):
        data = DataSet([b"12345678", b"abc"])
        peers.make_records(data.root, "/bin/true")
        self.assertFalse(os.path.exists(data.root + ".records"))


class Limits(unittest.TestCase):
    FIO = {"fio version": "fio-3.33", "jobs": [{"usr_cpu": 10.0, "sys_cpu": 15.0, "job_runtime": 4000, "read": {
        "runtime": 2000, "io_bytes": 400_000_000, "iops": 48828.1, "total_ios": 97656,
        "clat_ns": {"percentile": {"50.000000": 500_000, "99.000000": 2_000_000}}}}]}

    def test_a_report_of_fio_has_the_fields_that_compare_wants(self):
        report = limits.fio_report(self.FIO, 4096, 64, 2, "randread", "huge pages")
        self.assertEqual((report["mb_per_s"], report["cpu_s_per_gb"], report["next_p99_us"]), (200.0, 2.5, 2000.0))
        for field in compare.FIELDS:
            float(report[field])

    def test_the_depth_is_that_of_all_jobs_together(self):
        command = limits.fio_command("/f", 4096, 64, 2, 1.5, "randread", huge=True)
        for word in ("--iodepth=32", "--numjobs=2", "--runtime=1500ms", "--direct=1", "--iomem=mmaphuge"):
            self.assertIn(word, command)

    def test_the_table_names_small_pages(self):
        row = {"kind": "randread", "bytes": 4096, "depth": 64, "samples_per_s": 1, "mb_per_s": 2, "mb_per_s_range": [1, 3],
               "cpu_s_per_gb": 4, "pages": "small pages"}
        self.assertIn("random, direct (small pages) | 4096 | 64 |", limits.markdown([row], "c"))


class Profile(unittest.TestCase):
    def test_the_lowest_rank_decides(self):
        rank = {"samples_per_s": 500, "mb_per_s": 160, "cpu_s": 0.5, "bytes": 1e9, "wall_s": 5, "next_p99_us": 7}
        summary = retinanet.summarise([{**rank, "accelerator_utilisation": 0.99}, {**rank, "accelerator_utilisation": 0.8}])
        self.assertEqual((summary["reached"], summary["files_per_s"], summary["core_share"]), (False, 1000, 0.2))


class Plot(unittest.TestCase):
    DOCUMENT = {"title": "t", "rounds": 2, "started": "2026-01-01T00:00:00+00:00", "machine": {"cpus": 2, "kernel": "6"},
                "limits": ["limit"],
                "runs": {"penstock": [result(5), result(9)], "x_files": [result(50, form="files")], "limit": [result(99)], "gone": []}}

    def test_bars_are_sorted_and_grouped(self):
        (_, rows), _ = plot.bars(self.DOCUMENT)
        self.assertEqual([(row[0], row[1]) for row in rows], [("limit", "limit"), ("x, files", "peer"), ("penstock", "penstock")])
        self.assertEqual(rows[2][2:], (7, 5, 9))

    def test_both_pictures_are_written(self):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest("matplotlib is not installed")
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            plot.draw(self.DOCUMENT, os.path.join(folder, "r"))
            self.assertEqual(sorted(os.listdir(folder)), ["r.png", "r.svg"])


if __name__ == "__main__":
    unittest.main(verbosity=1)
