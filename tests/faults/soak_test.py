"""R32: nothing grows; and what does grow is seen to."""

import json

from soak import soak


def test_r32_nothing_grows(tmp_path, record_property):
    report = soak(40, tmp_path, kill_every=3)
    record_property("report", json.dumps(report))
    print(json.dumps(report))
    assert report["restarts"] >= 2
    assert report["num_failures"] == 0, report["failures"]
    assert report["grown"] == {"front end": "", "engine": ""}
    assert report["probes"]["/livez"]["statuses"] == [200]


def test_r32_a_leak_of_memory_is_noticed(tmp_path):
    report = soak(12, tmp_path, faults="leak from=1 ms=100", kill_every=0)
    assert "memory" in report["grown"]["engine"]
    assert report["grown"]["front end"] == ""


def test_r32_a_leak_of_descriptors_is_noticed(tmp_path):
    report = soak(12, tmp_path, kill_every=0, hold_connections=True)
    assert "descriptors" in report["grown"]["front end"]
