"""From Python: answers are scored without a model, by a shipped verifier or by one's own."""

from own_verifier import Near

from gpg_vl import Sample, score

sample = Sample(question="How many dogs?", answer_kind="number", answer=3)
print(score("<think>one, two, three</think><answer>3</answer>", sample))
print(score("So there are 3 dogs.", sample, mode="lenient"))
print(score("<think>one, two</think><answer>2</answer>", sample, verifier=Near()))
