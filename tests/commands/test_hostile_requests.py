"""One request must never end the server, nor change what another gets: rows that cannot be drawn, and random bodies."""

import json
import math
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import healthy

THINK, EOS = 3, 2
PROMPT = [5, 17, 42, 9, THINK]
ABSENT = "é"  # the tokenizer has no such character


def post(url: str, body: object, path: str = "/v1/completions") -> tuple[int, str]:
    """HTTP status and text of a body sent as it is, or as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


class Witness:
    """Seeded requests whose answers no other request may change."""

    bodies = (
        {"vllm_xargs": {"led": 0}, "top_p": 0.9},
        {"vllm_xargs": {"led": 1}},
        {"vllm_xargs": {"led": 1, "led_draw": "marginal", "led_exploit": 0}},
        {"vllm_xargs": {"led_decoding": "top_k_control"}},
    )

    def __init__(self, url: str, model: str):
        self.url, self.model = url, model
        self.expected = self.answers()

    def answers(self) -> list[object]:
        base = {"model": self.model, "prompt": PROMPT, "seed": 11, "max_tokens": 8, "return_token_ids": True}
        found = []
        for body in self.bodies:
            status, text = post(self.url, {**base, "ignore_eos": True, "temperature": 1.0, "logprobs": 0, **body})
            assert status == 200, text
            choice = json.loads(text)["choices"][0]
            found.append((choice["token_ids"], [round(value, 4) for value in choice["logprobs"]["token_logprobs"]]))
        return found

    def check(self) -> None:
        assert healthy(self.url)
        assert self.answers() == self.expected


@pytest.fixture(scope="module")
def witness(led_server, tiny_model):
    return Witness(led_server, tiny_model)


def metrics(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if x.startswith("led_rl:"))}


STANDARD = {"led": 0}
DECODINGS = (
    {"led": 1},
    {"led": 1, "led_draw": "marginal"},
    {"led": 1, "led_exploit": 0},
    {"led_decoding": "led_reference"},
    {"led_decoding": "top_k_control"},
)
UNDRAWABLE = {
    "eos alone, and not yet": {"allowed_token_ids": [EOS], "min_tokens": 2},
    "nothing but a bad word": {"allowed_token_ids": [50], "bad_words": ["J"]},
    "infinite logits": {"repetition_penalty": 1e-38, "logit_bias": {"50": 100}, "prompt": [50, THINK]},
}


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("name", UNDRAWABLE)
def test_rows_that_cannot_be_drawn_harm_nobody(witness, led_server, tiny_model, name, temperature):
    base = {"model": tiny_model, "prompt": PROMPT, "max_tokens": 3, "seed": 1, "return_token_ids": True}
    before = metrics(led_server)["led_rl:undrawable_total"]
    bodies = [
        {**base, **UNDRAWABLE[name], "temperature": temperature, "logprobs": 2, "vllm_xargs": xargs}
        for xargs in DECODINGS
    ]
    with ThreadPoolExecutor(len(bodies) + 1) as pool:
        others = pool.submit(witness.answers)
        answers = list(pool.map(lambda body: post(led_server, body), bodies))
    assert others.result() == witness.expected
    status, text = post(led_server, {**bodies[0], "vllm_xargs": STANDARD, "logprobs": None})
    standard = json.loads(text)["choices"][0]["token_ids"]
    status, text = post(led_server, {**bodies[0], "vllm_xargs": STANDARD})  # vLLM alone: NaN, and HTTP 400
    assert status == 200, text
    choice = json.loads(text, parse_constant=no_constants)["choices"][0]
    assert choice["token_ids"] == standard
    assert -9999 in choice["logprobs"]["token_logprobs"]
    rows = 0
    for status, text in answers:
        assert status == 200, text
        answer = json.loads(text, parse_constant=no_constants)
        statistics = answer["kv_transfer_params"]["led"]
        rows += (undrawable := statistics.get("undrawable", 0))
        assert 0 < undrawable <= statistics["rows"]
        assert statistics["explored"] <= statistics["rows"] - undrawable
        choice = answer["choices"][0]
        assert all(math.isfinite(value) for value in choice["logprobs"]["token_logprobs"])
        assert choice["token_ids"][0] == standard[0]
    found = metrics(led_server)
    assert found["led_rl:undrawable_total"] - before == rows
    assert all(math.isfinite(value) for value in found.values())
    witness.check()


@pytest.mark.parametrize(
    "asked",
    [
        {"structured_outputs": {"regex": f"{ABSENT}+"}},
        {"structured_outputs": {"choice": [ABSENT]}},
        {"structured_outputs": {"regex": f"a{ABSENT}b"}},
        {"structured_outputs": {"grammar": f'root ::= "{ABSENT}"'}},
        {"structured_outputs": {"choice": ["a"]}, "allowed_token_ids": [50]},
    ],
    ids=str,
)
def test_a_grammar_that_leaves_nothing_fails_its_own_request_alone(witness, led_server, tiny_model, asked):
    """vLLM's grammar refuses whatever token is drawn, and ends the request with an error, with LED and without."""
    for xargs in (STANDARD, *DECODINGS):
        body = {"model": tiny_model, "prompt": PROMPT, "max_tokens": 4, "vllm_xargs": xargs}
        status, _ = post(led_server, {**body, **asked})
        assert status == 500
    witness.check()


numbers = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30]),
    st.sampled_from([0.0, -0.0, 1e-38, 1e38, 1e308, -1e308, 0.5, 1.0, 1e-300, math.inf, -math.inf, math.nan]),
)
scalars = st.one_of(
    numbers, st.booleans(), st.none(), st.sampled_from(["", "led", "1", "<think>", "a", ABSENT, "\x00", "</think>"])
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["led", "a", "1", "type"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def around(*right: object) -> st.SearchStrategy[object]:
    """What an option takes, and once in some fifteen times anything."""
    taken = st.one_of(*(value if isinstance(value, st.SearchStrategy) else st.just(value) for value in right))
    return st.integers(0, 14).flatmap(lambda number: taken if number else anything)


tokens = st.integers(0, 104)
unit = st.floats(0, 1)
XARGS = {
    "led": around(0, 1, True, False),
    "led_decoding": around("led", "top_k_control", "led_reference", "standard"),
    "led_depth": around(st.integers(1, 8)),
    "led_k": around(st.integers(1, 128)),
    "led_latent_layers": around(st.lists(st.integers(5, 11), max_size=4, unique=True)),
    "led_latent_norm": around(0, 1),
    "led_exploit": around(0, 1),
    "led_draw": around("coin", "marginal"),
    "led_aggregation": around("cumulative_sum", "mean_all", "max_entropy_layer", "product"),
    "led_think_only": around(0, 1),
    "led_think_start": around("prompt", "marker"),
    "led_start_marker": around(st.text(max_size=5), st.lists(tokens, max_size=3)),
    "led_end_marker": around(st.text(max_size=5), st.lists(tokens, max_size=3)),
    "tag": anything,
}
OPTIONS = {
    "temperature": around(st.floats(0, 2), 0),
    "top_p": around(unit),
    "top_k": around(st.integers(-1, 200)),
    "min_p": around(unit),
    "seed": around(st.integers(0, 2**63 - 1)),
    "n": st.one_of(st.integers(-1, 4), st.none(), st.booleans(), st.just("2")),
    "logprobs": around(st.integers(0, 5)),
    "prompt_logprobs": around(st.integers(0, 5)),
    "frequency_penalty": around(st.floats(-2, 2)),
    "presence_penalty": around(st.floats(-2, 2)),
    "repetition_penalty": around(st.floats(0.01, 3)),
    "min_tokens": around(st.integers(0, 6)),
    "stop": around("a", ["a", "b"]),
    "stop_token_ids": around(st.lists(tokens, max_size=3)),
    "bad_words": around(["a", "b"]),
    "allowed_token_ids": around(st.lists(tokens, max_size=4)),
    "logit_bias": around(st.dictionaries(st.integers(0, 120).map(str), st.floats(-100, 100), max_size=4)),
    "ignore_eos": around(True, False),
    "stream": around(True, False),
    "echo": around(True, False),
    "use_beam_search": around(False),
    "return_token_ids": around(True),
    "truncate_prompt_tokens": around(st.integers(1, 5)),
}
STRAY = dict.fromkeys(("suffix", "kv_transfer_params", "extra_args", "led", "led_k"), anything)
prompts = around(PROMPT, st.lists(tokens, min_size=1, max_size=12), st.text(min_size=1, max_size=12))
xargs_of = around(
    st.fixed_dictionaries({"led": st.just(1)}, optional={name: XARGS[name] for name in XARGS if name != "led"}),
    st.fixed_dictionaries({"led_decoding": st.just("top_k_control")}, optional={"led_k": XARGS["led_k"]}),
    st.fixed_dictionaries({}, optional=XARGS),
)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, object]:
    names = draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=6, unique=True))
    body = {name: draw(OPTIONS[name]) for name in names}
    if not draw(st.integers(0, 14)):
        name = draw(st.sampled_from(sorted(STRAY)))
        body[name] = draw(STRAY[name])
    body["vllm_xargs"] = draw(xargs_of)
    body["prompt"] = draw(prompts)
    body["max_tokens"] = draw(st.integers(1, 6))
    return body


SEEN: dict[int, int] = {}


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(batch=st.lists(bodies(), min_size=1, max_size=12), chat=st.booleans())
def test_whatever_bodies_come_the_server_goes_on_and_others_get_what_they_got(
    witness, led_server, tiny_model, batch, chat
):
    def send(body: dict[str, object]) -> tuple[int, str]:
        body = {"model": tiny_model, **body}
        if chat:
            content = body.pop("prompt")
            if "logprobs" in body:
                body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
            messages = [{"role": "user", "content": content if isinstance(content, str) else "a"}]
            return post(led_server, {**body, "messages": messages}, "/v1/chat/completions")
        return post(led_server, body)

    with ThreadPoolExecutor(len(batch)) as pool:
        answers = list(pool.map(send, batch))
    for body, (status, text) in zip(batch, answers, strict=True):
        SEEN[status] = SEEN.get(status, 0) + 1
        assert status < 500, (body, text)
    assert all(math.isfinite(value) for value in metrics(led_server).values())
    witness.check()
