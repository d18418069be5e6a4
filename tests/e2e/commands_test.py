"""The subcommands that end by themselves."""

import json
import pathlib
import subprocess

import pytest

from harness import BINARY, MODEL, REFERENCE, Server, run

CASE = REFERENCE[0]


@pytest.mark.parametrize("from_stdin", [False, True])
def test_generate_prints_the_completion(from_stdin):
    source = [] if from_stdin else ["--prompt", CASE["prompt"]]
    ended = run("generate", MODEL, *source, "--temperature", 0, "--max-tokens", CASE["max_tokens"],
                stdin=CASE["prompt"] if from_stdin else "")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.removesuffix("\n") == CASE["text"]


def test_tokenize_and_back():
    lines = "Call me Ishmael.\n  two spaces\n"
    ids = run("tokenize", MODEL, stdin=lines)
    assert ids.returncode == 0, ids.stderr
    assert json.loads(ids.stdout.splitlines()[0]) == REFERENCE[1]["prompt_ids"]
    assert run("tokenize", MODEL, "--decode", stdin=ids.stdout).stdout == lines


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["serve", "--help"]])
def test_help_and_version_are_answers(args):
    ended = run(*args)
    assert ended.returncode == 0 and ended.stdout and not ended.stderr


@pytest.mark.parametrize("args", [["nonsense"], ["generate"], ["tokenize", "/nowhere"]])
def test_bad_usage_is_exit_code_2(args):
    ended = run(*args)
    assert ended.returncode == 2 and ended.stderr and not ended.stdout


def test_an_option_that_is_none_is_named_where_a_command_should_be():
    ended = run("--verison")
    assert ended.returncode == 2 and "no option '--verison'" in ended.stderr


def test_generate_takes_the_fields_of_the_api():
    ended = run("generate", MODEL, "--prompt", CASE["prompt"], "--temperature", 0, "--max-tokens", 3, "--logprobs", 2,
                "--echo", "--stop", "zzz", "--stop", "yyy", "--json")
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    choice, = record["choices"]
    assert choice["text"].startswith(CASE["prompt"]) and choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == record["usage"]["total_tokens"]
    assert record["model"] == "demo-model"


def test_generate_prints_several_answers():
    ended = run("generate", MODEL, "--prompt", "Call me", "--n", 3, "--max-tokens", 4, "--seed", 1, "--json")
    texts = [choice["text"] for choice in json.loads(ended.stdout)["choices"]]
    assert len(set(texts)) > 1
    plain = run("generate", MODEL, "--prompt", "Call me", "--n", 3, "--max-tokens", 4, "--seed", 1)
    assert plain.stdout == "\n".join(texts) + "\n"


@pytest.mark.parametrize("args, says", [
    (["--temperature", "x"], "temperature"), (["--temperature", 3], "temperature"), (["--max-tokens", 2000], "max_tokens"),
    (["--max-tokenss", 2], "did you mean --max-tokens?"), (["--n-predict", 2], "did you mean --max-tokens?"),
    (["--tensor-parallel-size", 3], "3"),
])
def test_what_generate_cannot_do_is_one_line_and_exit_code_2(args, says):
    ended = run("generate", MODEL, "--prompt", "x", *args)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and says in ended.stderr


def test_a_prompt_that_is_not_utf8_is_refused():
    ended = subprocess.run([BINARY, "generate", MODEL, "--prompt", b"ab\xff\xfe"], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, b"") and b"offset 2" in ended.stderr


def test_a_line_that_is_no_list_of_ids_is_named():
    ended = run("tokenize", MODEL, "--decode", stdin="[5]\nnonsense\n")
    assert ended.returncode == 2 and "line 2" in ended.stderr and len(ended.stdout.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_learn_the_commands(shell):
    script = run("completion", shell)
    assert script.returncode == 0 and "tokenize" in script.stdout and "max-model-len" in script.stdout


def test_plan_models_a_node_without_weights():
    ended = run("plan", "opt-175b", "--node", "dgx2", "--json")
    assert ended.returncode == 0, ended.stderr
    plan = json.loads(ended.stdout)
    assert plan["kind"] == "modelled"
    fitting = [option["tensor_parallel_size"] for option in plan["options"] if option["fits"]]
    assert 16 in fitting and 8 not in fitting
    text = run("plan", "opt-175b", "--node", "dgx2").stdout
    assert "modelled, not measured" in text and "all-reduce" in text


def test_plan_measures_this_machine_and_reads_a_model():
    ended = run("plan", MODEL, "--prompt-tokens", 100, "--output-tokens", 20)
    assert ended.returncode == 0, ended.stderr
    assert "measured now" in ended.stdout


@pytest.mark.parametrize("args, says", [
    (["opt-7b"], "opt-6.7b"), (["opt-13b", "--node", "dgx3"], "dgx2"), (["opt-13b", "--node", "/no/such.json"], "/no/such.json"),
    (["opt-13b", "--node", "dgx2", "--dtype", "int4"], "int8"), (["opt-13b", "--node", "dgx2", "--prompt-tokens", 3000], "2048"),
])
def test_what_cannot_be_planned_is_one_line_and_exit_code_2(args, says):
    ended = run("plan", *args)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1 and says in ended.stderr


def test_inspect_shows_what_is_in_a_checkpoint():
    shown = run("inspect", MODEL)
    assert shown.returncode == 0, shown.stderr
    assert "safetensors" in shown.stdout and "decoder.layers.0.fc1.weight" in shown.stdout
    report = json.loads(run("inspect", MODEL, "--json").stdout)
    assert report["tensor_parallel"][0]["size"] == 1 and report["num_parameters"] > 1_000_000


@pytest.fixture
def damaged(tmp_path):
    """The demo model with a NaN in its last weight."""
    for file in pathlib.Path(MODEL).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-2:] = b"\x00\x7e"
    (tmp_path / "model.safetensors").write_bytes(weights)
    return tmp_path


def test_verify_finds_a_whole_model_whole_and_a_damaged_one_not(damaged):
    whole = run("verify", MODEL)
    assert whole.returncode == 0 and "is whole" in whole.stdout and not whole.stderr
    broken = run("verify", damaged)
    assert broken.returncode == 2 and "NaN" in broken.stderr and not broken.stdout


@pytest.mark.parametrize("command", [["generate", "--prompt", "x", "--max-tokens", 1],
                                     ["serve", "--port", 0, "--no-grpc"]])
def test_verify_while_loading_refuses_a_damaged_model(command, damaged):
    ended = run(command[0], damaged, *command[1:], "--verify")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "model.safetensors: tensor" in ended.stderr and "holds NaN or infinity at row" in ended.stderr


def test_verify_while_loading_lets_a_whole_model_pass():
    ended = run("generate", MODEL, "--prompt", CASE["prompt"], "--temperature", 0, "--max-tokens", CASE["max_tokens"],
                "--verify", "--tensor-parallel-size", 2)
    assert ended.stdout.removesuffix("\n") == CASE["text"], ended.stderr


@pytest.fixture
def bare(tmp_path):
    """The demo model's weights alone, and its configuration and tokenizer elsewhere: (model, config, tokenizer)."""
    model, elsewhere = tmp_path / "weights", tmp_path / "elsewhere"
    for file in pathlib.Path(MODEL).iterdir():
        target = model if file.suffix == ".safetensors" else elsewhere
        target.mkdir(exist_ok=True)
        (target / file.name).write_bytes(file.read_bytes())
    return model, elsewhere / "config.json", elsewhere


def test_configuration_and_tokenizer_may_be_elsewhere(bare, tmp_path):
    model, config, tokenizer = bare
    without = run("generate", model, "--prompt", "x")
    assert without.returncode == 2 and "--model-config" in without.stderr and str(model) in without.stderr
    with_both = run("generate", model, "--model-config", config, "--tokenizer", tokenizer, "--prompt", CASE["prompt"],
                    "--temperature", 0, "--max-tokens", CASE["max_tokens"])
    assert with_both.stdout.removesuffix("\n") == CASE["text"], with_both.stderr
    assert run("inspect", model, "--model-config", config).returncode == 0
    assert run("verify", model, "--model-config", config).returncode == 0
    written = run("convert", model, tmp_path / "new", "--model-config", config, "--tokenizer", tokenizer)
    assert written.returncode == 0, written.stderr
    answer = run("generate", tmp_path / "new", "--prompt", CASE["prompt"], "--temperature", 0,
                 "--max-tokens", CASE["max_tokens"])
    assert answer.stdout.removesuffix("\n") == CASE["text"], answer.stderr


def test_a_server_takes_them_from_elsewhere_too(bare):
    model, config, tokenizer = bare
    with Server("--model-config", config, "--tokenizer", tokenizer, model=model) as server:
        assert server.complete(CASE["prompt"], max_tokens=CASE["max_tokens"])["choices"][0]["text"] == CASE["text"]


def test_what_is_wrong_elsewhere_is_named(bare, tmp_path):
    model, config, tokenizer = bare
    merges = (tokenizer / "merges.txt").read_text()
    (tokenizer / "merges.txt").write_text(merges[:len(merges) // 2])
    cut = run("generate", model, "--model-config", config, "--tokenizer", tokenizer, "--prompt", "x")
    assert cut.returncode == 2 and "merges.txt" in cut.stderr and "cut off" in cut.stderr, cut.stderr
    none = run("generate", model, "--model-config", config, "--tokenizer", tmp_path, "--prompt", "x")
    assert none.returncode == 2 and f"--tokenizer is '{tmp_path}'" in none.stderr
    config.write_text('{"num_attention_heads": 7}')
    wrong = run("generate", model, "--model-config", config, "--tokenizer", MODEL, "--prompt", "x")
    assert wrong.returncode == 2 and f"{config}: num_attention_heads is 7" in wrong.stderr


def test_convert_writes_a_model_that_answers_the_same(tmp_path):
    written = run("convert", MODEL, tmp_path / "new", "--max-shard-size", "4MiB", "--dtype", "float32")
    assert written.returncode == 0, written.stderr
    assert len(list((tmp_path / "new").glob("model-*.safetensors"))) > 1
    answer = run("generate", tmp_path / "new", "--prompt", CASE["prompt"], "--temperature", 0,
                 "--max-tokens", CASE["max_tokens"])
    assert answer.stdout.removesuffix("\n") == CASE["text"]
    again = run("convert", MODEL, tmp_path / "new", "--max-shard-size", "4MiB", "--dtype", "float32")
    assert "0 files new" in again.stdout


def test_convert_writes_a_file_for_each_rank(tmp_path):
    written = run("convert", MODEL, tmp_path / "two", "--tensor-parallel-size", 2)
    assert written.returncode == 0, written.stderr
    assert sorted(path.name for path in (tmp_path / "two").glob("*.safetensors")) == [
        "model-rank-0-of-2.safetensors", "model-rank-1-of-2.safetensors"]
    for size in (1, 2, 4):
        answer = run("generate", tmp_path / "two", "--prompt", CASE["prompt"], "--temperature", 0,
                     "--max-tokens", CASE["max_tokens"], "--tensor-parallel-size", size)
        assert answer.stdout.removesuffix("\n") == CASE["text"], answer.stderr
    odd = run("convert", MODEL, tmp_path / "odd", "--tensor-parallel-size", 3)
    assert odd.returncode == 2 and "sizes that do: 1, 2, 4" in odd.stderr


@pytest.mark.parametrize("args", [["--dtype", "int3"], ["--max-shard-size", "0"], ["--max-shard-size", "many"],
                                  ["--tensor-parallel-size", "0"],
                                  ["--max-shard-size", "1GB", "--tensor-parallel-size", "2"]])
def test_convert_refuses_bad_flags(args, tmp_path):
    ended = run("convert", MODEL, tmp_path / "new", *args)
    assert ended.returncode == 2 and args[0] in ended.stderr and not (tmp_path / "new").exists()
