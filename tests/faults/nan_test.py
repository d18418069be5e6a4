"""R20: numbers that are not finite fail their own answer and nothing else."""

import concurrent.futures

from faulty import FaultyServer, answer_of, body_of


def test_r20_only_the_sequence_of_the_row_fails(tmp_path):
    bodies = [{**body_of(0), "stream": False, "seed": seed, "temperature": 1, "max_tokens": 150} for seed in range(8)]
    with FaultyServer(log=tmp_path / "log") as server:
        expected = [answer_of(server, body) for body in bodies]
    with FaultyServer(log=tmp_path / "log2", faults="nan step=60 row=3") as server:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda body: answer_of(server, body), bodies))
        failed = [index for index, answer in enumerate(got) if "error" in answer]
        assert len(failed) == 1
        assert got[failed[0]]["error"]["type"] == "server_error"
        for index in set(range(8)) - set(failed):
            assert got[index] == expected[index]
        assert server.metric("optserve_nonfinite_rows_total") == 1
        assert server.metric("optserve_engine_restarts_total") == 0
        # What it left behind is used again and says nothing else: the request itself, and then everybody.
        for _ in range(2):
            for index, body in enumerate(bodies):
                assert answer_of(server, body) == expected[index]
        server.wait_until_idle()


def test_r20_an_error_of_ours_may_be_tried_again(tmp_path):
    with FaultyServer(log=tmp_path / "log", faults="nan step=10 row=0; nan step=130 row=0") as server:
        response = server.post({"prompt": "Call me", "max_tokens": 100, "temperature": 0, "ignore_eos": True})
        assert response.status_code == 500 and response.headers["x-should-retry"] == "true"
        assert server.post({"prompt": "Call me", "max_tokens": 100, "ignore_eos": True}).status_code == 200
        events = server.stream("Call me Ishmael", max_tokens=100, ignore_eos=True)
        assert 1 < len(events) < 100 and events[-1]["error"]["type"] == "server_error"


def test_r20_a_device_that_computes_nonsense_is_replaced(tmp_path):
    faults = ";".join(f"nan step={step} row=0 generation=1" for step in range(10, 400))
    with FaultyServer(log=tmp_path / "log", faults=faults) as server:
        answers = []
        for index in range(12):
            answers.append(answer_of(server, {**body_of(0), "stream": False, "prompt": f"Number {index} of", "max_tokens": 30}))
            if server.events("engine_died"):
                break
        died, = server.events("engine_died")
        assert "nonsense" in died["why"]
        assert "error" not in answer_of(server, {**body_of(0), "stream": False, "prompt": "At last", "max_tokens": 30})
