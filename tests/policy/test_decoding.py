"""Writing answers row by row: what is dropped, what stays, and that what stays goes on as if it
had always been alone."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from gpg_vl.policy.decoding import RepeatedRows, SharedRows, _OwnTokens, begin
from gpg_vl.policy.families import Sharing
from gpg_vl.policy.plain_forward import UnsharedForward, plain_states
from gpg_vl.policy.shared_prefix import Prefix
from gpg_vl.rollout import transformers_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine, inverse_cdf
from gpg_vl.types import Prompt, Sample
from tests.any_family import hand_made, policy_of_family
from tests.asking import prompts
from tests.hand_made import completion

# --- what rows and prompts leave behind -----------------------------------------------------------


def test_some_of_the_prompts_keep_all_that_is_their_own():
    numbers = torch.arange(3.0)
    prefix = Prefix(
        keys=tuple(10 * layer + numbers.view(3, 1, 1, 1).expand(3, 2, 4, 5) for layer in range(2)),
        values=tuple(
            100 + 10 * layer + numbers.view(3, 1, 1, 1).expand(3, 2, 4, 5) for layer in range(2)
        ),
        visible_PL=torch.tensor(
            [[True] * 4, [False, True, True, True], [False, False, True, True]]
        ),
        padded=True,
        next_position_P=torch.tensor([7, 8, 9]),
        last_hidden_PD=numbers[:, None].expand(3, 6),
        masks={(1, 1, 1, 0): "of three prompts"},
    )
    for which in ([2, 0], [1], [0, 2], [2]):
        kept = prefix.select(torch.tensor(which))
        assert [layer[:, 0, 0, 0].tolist() for layer in kept.keys] == [
            which,
            [10 + place for place in which],
        ]
        assert [layer[:, 0, 0, 0].tolist() for layer in kept.values] == [
            [100 + place for place in which],
            [110 + p for p in which],
        ]
        assert [4 - int(row.sum()) for row in kept.visible_PL] == which
        assert kept.visible_PL[:, -1].all()
        assert kept.next_position_P.tolist() == [7 + place for place in which]
        assert kept.last_hidden_PD[:, 0].tolist() == which
        assert kept.padded
        assert kept.masks == {}  # a mask is of so many prompts


def test_keys_and_values_of_own_tokens_are_kept_in_order_through_every_growth_and_drop():
    cache, draw = _OwnTokens(), torch.Generator().manual_seed(0)
    kept = torch.arange(6)
    said: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[], []]
    for step in range(13):
        if step in {4, 9}:  # rows leave, and those that stay change their order
            rows = torch.tensor([5, 0, 3, 2]) if step == 4 else torch.tensor([2, 1])
            cache.keep(rows)
            kept = kept[rows]
            said = [[(keys[rows], values[rows]) for keys, values in layer] for layer in said]
        for layer in range(2):
            keys, values = (torch.randn(len(kept), 2, 1, 3, generator=draw) for _ in range(2))
            said[layer].append((keys, values))
            found = cache.update(keys, values, layer)
            for mine, theirs in zip(found, zip(*said[layer], strict=True), strict=True):
                assert torch.equal(mine, torch.cat(theirs, 2))


def test_own_tokens_move_only_when_the_room_is_full_and_then_to_twice_of_it(monkeypatch):
    """Rooms of 2, 6 and 14 tokens: an answer of any length moves a number of times that grows
    with its logarithm."""
    moved, honest = [], _OwnTokens._grow
    monkeypatch.setattr(
        _OwnTokens,
        "_grow",
        lambda cache, *given: moved.append(given[2:]) or honest(cache, *given),
    )
    cache = _OwnTokens()
    for _ in range(14):
        cache.update(torch.zeros(2, 1, 1, 3), torch.zeros(2, 1, 1, 3), 0)
    assert moved == [(0, 2), (2, 6), (6, 14)]


def test_own_tokens_of_several_positions_at_once_are_kept_too():
    cache = _OwnTokens()
    first, second = torch.arange(6.0).view(1, 1, 3, 2), torch.arange(10.0).view(1, 1, 5, 2) + 100
    cache.update(first, -first, 0)
    keys, values = cache.update(second, -second, 0)
    assert torch.equal(keys, torch.cat([first, second], 2))
    assert torch.equal(values, -keys)


def asked_of(family, policy_of):
    if family == "qwen2_5_vl":
        policy = policy_of(dtype="float64")
        return policy, prompts(policy, ["add", "count", "compare"])
    policy = policy_of_family(family)
    return policy, [
        hand_made(family, count, words, seed)
        for seed, (count, words) in enumerate([(0, 4), (1, 11), (2, 6)])
    ]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "llava", "qwen3_5"])
@torch.no_grad()
def test_rows_that_stay_go_on_as_if_they_had_been_alone(family, policy_of):
    """Three prompts of unequal lengths, three rows each; rows leave and change places, then
    prompts leave, from the front and the back."""
    policy, asked = asked_of(family, policy_of)
    rows = begin(policy, asked, 3)
    assert isinstance(rows, RepeatedRows if family == "qwen3_5" else SharedRows)
    written = [
        [(prompt, [5 + 3 * place + row]) for row in range(3)] for place, prompt in enumerate(asked)
    ]

    def follow(found):
        for group, states in zip(written, found, strict=True):
            for (prompt, ids), state in zip(group, states, strict=True):
                torch.testing.assert_close(
                    state,
                    plain_states(policy, [(prompt, [completion([*ids, 9])])])[-1],
                    rtol=0,
                    atol=1e-5,
                )

    def append(step):
        tokens = torch.tensor([[ids[-1] for _, ids in group] for group in written])
        follow(rows.append(tokens))
        for group in written:
            for place, (_, ids) in enumerate(group):
                ids.append(40 + 7 * step + place)

    assert rows.first_PRD.shape[:2] == (3, 3)
    append(0)
    rows.keep(torch.tensor([0, 1, 2]), torch.tensor([[2, 0], [4, 5], [8, 7]]))  # rows alone
    written[:] = [
        [written[0][2], written[0][0]],
        [written[1][1], written[1][2]],
        [written[2][2], written[2][1]],
    ]
    append(1)
    rows.keep(torch.tensor([1, 2]), torch.tensor([[3], [4]]))  # the first prompt leaves, with rows
    written[:] = [[written[1][1]], [written[2][0]]]
    append(2)
    append(3)
    rows.keep(torch.tensor([1]), torch.tensor([[1]]))
    written[:] = [written[1]]
    append(4)


def test_whoever_cannot_share_repeats(policy_of):
    policy = policy_of()
    assert isinstance(begin(policy, prompts(policy, ["add"]), 2), SharedRows)
    policy.sharing.why_not = "a reason"
    assert isinstance(begin(policy, prompts(policy, ["add"]), 2), RepeatedRows)


# --- the engine on a script -----------------------------------------------------------------------

END, OTHER_END, WORD = 2, 3, 10


class Scripted:
    """Rows whose next tokens are written down beforehand, and that record what they are given."""

    def __init__(self, script) -> None:
        self.script = torch.tensor(script)  # [P, R, T]
        self.at, self.appended, self.kept = 0, [], []
        self.first_PRD = self._logits()

    def _logits(self):
        return torch.nn.functional.one_hot(self.script[:, :, self.at], 20).double() * 1e3

    def append(self, tokens_PR):
        self.appended.append(tokens_PR.tolist())
        # each row is appended its own last token
        assert tokens_PR.tolist() == self.script[:, :, self.at].tolist()
        self.at += 1
        return self._logits()

    def keep(self, prompts_p, rows_pr):
        self.kept.append((prompts_p.tolist(), rows_pr.tolist()))
        self.script = self.script.flatten(0, 1)[rows_pr]


def scripted_engine(monkeypatch, script, prompts_at_once=32):
    """An engine whose model says what the script says: its head hands on what it is given."""
    made = []
    policy = SimpleNamespace(
        autocast=nullcontext,
        model=SimpleNamespace(lm_head=lambda hidden: hidden),
        banned_ids=(19,),
        end_ids=frozenset({END, OTHER_END}),
        decode=lambda ids: " ".join(map(str, ids)),
        sharing=Sharing(""),
        adapters=None,
    )

    def start(policy, batch, rows):
        assert rows == len(script[0])
        made.append(Scripted([script[int(prompt.sample.id)] for prompt in batch]))
        return made[-1]

    monkeypatch.setattr(transformers_engine, "begin", start)
    return TransformersEngine(policy, prompts_at_once), made


def numbered(count):
    samples = [
        Sample(id=str(place), question="?", answer_kind="number", answer=1)
        for place in range(count)
    ]
    return [Prompt(sample=sample, text="", input_ids=(1,), features={}) for sample in samples]


def padded(*answers, to):
    """What a row would go on to say after its end must never be written down."""
    return [[*ids, *[18] * (to - len(ids))] for ids in answers]


STAGGERED = [
    padded([10, END], [10, 11, 12, 13, END], to=6),
    padded([END], [OTHER_END], to=6),
    padded([14, 15, 16, 17, 10, 11], [12, 13, OTHER_END], to=6),
]
"""Three questions of two answers: their ends are of both kinds; the last answer but one never
ends."""


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("prompts_at_once", [1, 2, 3, 32])
def test_answers_end_each_at_its_own_time_and_say_nothing_after_it(
    prompts_at_once, greedy, monkeypatch
):
    engine, made = scripted_engine(monkeypatch, STAGGERED, prompts_at_once)
    engine.version = 5
    sampling = Sampling(max_tokens=6, temperature=1.0, greedy=greedy)
    answers = engine.generate(numbered(3), sampling, [[1, 2], [3, 4], [5, 6]])
    assert [[own.token_ids for own in group] for group in answers] == [
        [(10, END), (10, 11, 12, 13, END)],
        [(END,), (OTHER_END,)],
        [(14, 15, 16, 17, 10, 11), (12, 13, OTHER_END)],
    ]
    assert [[own.finish for own in group] for group in answers] == [
        ["stop", "stop"],
        ["stop", "stop"],
        ["length", "stop"],
    ]
    assert all(own.logprobs == (0.0,) * len(own.token_ids) for group in answers for own in group)
    assert [[own.text for own in group] for group in answers][1] == [str(END), str(OTHER_END)]
    assert {own.version for group in answers for own in group} == {5}
    assert len(made) == -(-3 // prompts_at_once)


def test_finished_rows_and_questions_leave_as_soon_as_the_rectangle_allows(monkeypatch):
    engine, made = scripted_engine(monkeypatch, STAGGERED)
    engine.generate(numbered(3), Sampling(max_tokens=6, temperature=1.0), [[1, 2], [3, 4], [5, 6]])
    (rows,) = made
    # after the first token the middle question leaves; after the third both others have one living
    # answer, the second and the first
    assert rows.kept == [([0, 2], [[0, 1], [4, 5]]), ([0, 1], [[1], [2]]), ([1], [[1]])]
    assert [[len(group) for group in tokens] for tokens in rows.appended] == [
        [2, 2],
        [2, 2],
        [1, 1],
        [1, 1],
        [1],
    ]


@pytest.mark.parametrize(
    ("length", "script", "finish", "appends"),
    [
        (1, [[[10, 11]]], "length", 0),
        (1, [[[END, 11]]], "stop", 0),
        (2, [[[10, END]]], "stop", 1),
        (2, [[[10, 11]]], "length", 1),
        (6, [[[10, OTHER_END, 11]]], "stop", 1),
    ],
)
def test_an_end_at_the_last_place_is_an_end_and_no_token_is_computed_in_vain(
    length, script, finish, appends, monkeypatch
):
    engine, made = scripted_engine(monkeypatch, script)
    ((answer,),) = engine.generate(numbered(1), Sampling(max_tokens=length, temperature=1.0), [[7]])
    assert (answer.finish, len(made[0].appended)) == (finish, appends)
    assert len(answer.token_ids) == appends + 1


def flags(text):
    """One group a word, one answer a letter: x = done."""
    return [
        [SimpleNamespace(done=letter == "x", name=f"{place}{row}") for row, letter in enumerate(w)]
        for place, w in enumerate(text.split())
    ]


@pytest.mark.parametrize(
    ("state", "worth"),
    [
        ("... ...", False),
        ("x.. ...", False),
        ("x.. .x.", True),
        ("xxx ...", True),
        ("x.. x.x", True),
        (". .", False),
        ("x .", True),
    ],
)
def test_leaving_is_worth_it_only_where_a_row_of_every_question_or_a_question_is_done(state, worth):
    answers = flags(state)
    living = [[answer for answer in group if not answer.done] for group in answers]
    assert transformers_engine._can_drop_rows(answers, living) == worth


@pytest.mark.parametrize(
    ("state", "prompts", "rows"),
    [
        ("x.. .x.", [0, 1], [[1, 2], [3, 5]]),
        ("xxx ..x", [1], [[3, 4]]),
        ("..x xx. xxx", [0, 1], [[0, 1], [5, 3]]),  # a finished row fills the second up
        ("xxx xxx x..", [2], [[7, 8]]),
        (".xx xxx x.x", [0, 2], [[0], [7]]),
        ("xx. x.. xxx", [0, 1], [[2, 0], [4, 5]]),  # the widest is not the first
    ],
)
def test_what_stays_is_as_wide_as_the_question_with_most_unfinished_answers(state, prompts, rows):
    kept = []
    holder = SimpleNamespace(
        keep=lambda prompts_p, rows_pr: kept.append((prompts_p.tolist(), rows_pr.tolist()))
    )
    answers = flags(state)
    living = [[answer for answer in group if not answer.done] for group in answers]
    width = len(answers[0])
    tokens = 100 + torch.arange(len(answers) * width).view(len(answers), width)
    left, named = transformers_engine._drop_finished(holder, tokens, answers, living)
    assert kept == [(prompts, rows)]
    assert left.tolist() == [[100 + place for place in line] for line in rows]
    assert [[answer.name for answer in group] for group in named] == [
        [f"{place // width}{place % width}" for place in line] for line in rows
    ]


# --- chance ---------------------------------------------------------------------------------------


def test_a_seed_is_a_stream_the_same_whatever_its_length_and_another_for_another_seed():
    first, longer, other = (
        transformers_engine._uniforms(seed, count) for seed, count in ((0, 3), (0, 50), (1, 3))
    )
    # NumPy's PCG64 of seed 0, on every machine
    assert first[0] == pytest.approx(0.6369616873214543)
    assert longer[:3].tolist() == first.tolist()
    assert not set(first.tolist()) & set(other.tolist())
    assert ((longer >= 0) & (longer < 1)).all()


def test_an_impossible_token_is_never_drawn_at_the_edges_either():
    logprobs = torch.tensor(
        [[-torch.inf, -torch.inf, 0.5, -torch.inf, 0.5, -torch.inf]]
    ).log_softmax(-1)
    for uniform in (0.0, 1e-300, 0.4999, 0.5, 0.5001, 1 - 1e-16, 1.0):
        drawn = int(inverse_cdf(logprobs, torch.tensor([uniform], dtype=torch.float64)))
        assert drawn == (2 if uniform < 0.5 else 4)


def test_numbers_that_do_not_quite_add_up_to_one_are_taken_by_their_shares():
    """0.2, 0.2 and 0.1 are two, two and one fifth."""
    logprobs = torch.tensor([0.2, 0.2, 0.1], dtype=torch.float64).log()
    drawn = [
        int(inverse_cdf(logprobs, torch.tensor(uniform, dtype=torch.float64)))
        for uniform in (0.0, 0.39, 0.41, 0.79, 0.81, 0.99)
    ]
    assert drawn == [0, 0, 1, 1, 2, 2]


def test_a_token_of_one_in_a_billion_can_be_drawn_from_single_precision():
    logprobs = torch.tensor([0.5, 0.5, 1e-9]).log()
    assert [
        int(inverse_cdf(logprobs, torch.tensor(1 - far, dtype=torch.float64)))
        for far in (0.4e-9, 1.5e-9)
    ] == [2, 1]


def test_each_row_has_its_own_distribution_and_number():
    logprobs = torch.tensor(
        [[[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]], [[0.1, 0.9, 0.0], [1.0, 0.0, 0.0]]]
    ).log()
    uniforms = torch.tensor([[0.6, 0.1], [0.05, 0.9]], dtype=torch.float64)
    assert inverse_cdf(logprobs, uniforms).tolist() == [[1, 1], [0, 0]]


def test_a_small_sum_in_single_precision_still_reaches_the_last_token():
    # probabilities that add up to a little less than one
    logprobs = torch.full((1, 1 << 12), 1 / (1 << 12)).log() - 1e-6
    assert (
        int(inverse_cdf(logprobs, torch.tensor([1 - 1e-12], dtype=torch.float64))) == (1 << 12) - 1
    )


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "qwen3_5"])
def test_staggered_ends_change_no_log_probability(family, policy_of, monkeypatch):
    """Several answers a question, which end early and late, questions too; what was reported is
    what plain rows say of every token."""
    policy, asked = asked_of(family, policy_of)
    with torch.no_grad():
        policy.model.lm_head.weight *= 0.3  # an end is about as likely as any other
    kept = []
    for kind in (SharedRows, RepeatedRows):
        honest = kind.keep
        monkeypatch.setattr(
            kind,
            "keep",
            lambda rows, which, line, honest=honest: (
                kept.append((which.tolist(), line.tolist())) or honest(rows, which, line)
            ),
        )
    monkeypatch.setattr(
        transformers_engine,
        "allowed_logits",
        few_words(transformers_engine.allowed_logits, policy.end_ids),
    )
    seeds = [[100 * place + row for row in range(3)] for place in range(3)]
    answers = TransformersEngine(policy).generate(
        asked, Sampling(max_tokens=14, temperature=1.3), seeds
    )
    lengths = [[len(own.token_ids) for own in group] for group in answers]
    assert len({length for group in lengths for length in group}) > 3
    # a question left from before others
    assert any(which != list(range(len(which))) for which, _ in kept)
    assert any(line != sorted(line) or line[0][0] > 0 for _, line in kept)
    monkeypatch.setattr(
        "gpg_vl.policy.plain_forward.allowed_logits",
        few_words(transformers_engine.allowed_logits, policy.end_ids),
    )
    for prompt, group in zip(asked, answers, strict=True):
        for own in group:
            scores = UnsharedForward(policy, 1.3)([(prompt, [own])])
            assert scores.logprobs_N.tolist() == pytest.approx(own.logprobs, abs=1e-6)


def few_words(honest, end_ids):
    """Only ten words and the ends are possible."""

    def allowed(logits, temperature, banned_ids):
        only = torch.full_like(logits, -torch.inf)
        only[..., [*range(30, 40), *end_ids]] = 0
        return honest(logits, temperature, banned_ids) + only

    return allowed
