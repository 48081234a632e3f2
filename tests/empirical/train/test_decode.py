from itertools import product

import pytest
import torch

from empirical import build, layers
from empirical.corpus import Vocabulary
from empirical.layers import Context
from empirical.train.data import load
from empirical.train.decode import MARGIN, beam_search, bleu, translate
from empirical.train.training import task_of
from tests.empirical.train.small import CORPUS, MODEL, TRANSLATION

CLASSES = 8  # the special tokens and three words


@pytest.fixture(scope="module")
def model() -> layers.EncoderDecoder:
    made = build(MODEL.architecture("translation", CLASSES), seed=3)
    assert isinstance(made, layers.EncoderDecoder)
    with torch.no_grad():
        (weight,) = made.decoder.head.parameters()
        weight.mul_(6)  # decided words
        weight[:, Vocabulary.EOS] += 0.3
    return made.eval()


@torch.no_grad()
def score(model: layers.EncoderDecoder, source: torch.Tensor, sentence: tuple[int, ...]) -> float:
    """Mean log-probability of a sentence with its end, by one teacher-forced pass."""
    ids = torch.tensor([[Vocabulary.BOS, *sentence]])
    logp = model(source, ids, context=Context(None, None, source != Vocabulary.PAD)).log_softmax(-1)[0]
    wanted = torch.tensor([*sentence, Vocabulary.EOS])
    return logp.gather(1, wanted[:, None]).mean().item()


def test_a_beam_as_wide_as_all_sentences_finds_the_best_of_them(
    model: layers.EncoderDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("empirical.train.decode.MARGIN", 0)
    source = torch.tensor([[5, 6], [7, 5]])  # so that a translation has at most 3 tokens
    found = beam_search(model, source, classes=CLASSES, beam=64)
    words = range(5, CLASSES)
    for row, sentence in enumerate(found):
        sentences = [s for length in range(3) for s in product(words, repeat=length)]
        best = max(sentences, key=lambda s: score(model, source[row : row + 1], s))
        assert (
            score(model, source[row : row + 1], sentence) >= score(model, source[row : row + 1], best) - 1e-5
        )


def test_a_beam_of_one_is_greedy(model: layers.EncoderDecoder) -> None:
    source = torch.tensor([[5, 6, 7]])
    (found,) = beam_search(model, source, classes=CLASSES, beam=1)
    ids = [Vocabulary.BOS]
    for _ in range(int(1.5 * 3) + MARGIN):
        logits = model(source, torch.tensor([ids]), context=Context(None, None, source != Vocabulary.PAD))[
            0, -1
        ]
        logits[[Vocabulary.PAD, Vocabulary.BOS, Vocabulary.UNK, Vocabulary.MASK]] = float("-inf")
        ids.append(int(logits.argmax()))
        if ids[-1] == Vocabulary.EOS:
            break
    assert found == tuple(token for token in ids[1:] if token != Vocabulary.EOS)


def test_translations_do_not_depend_on_their_neighbours(model: layers.EncoderDecoder) -> None:
    alone = beam_search(model, torch.tensor([[5, 6]]), classes=CLASSES)
    padded = beam_search(model, torch.tensor([[5, 6, 0, 0], [7, 7, 6, 5]]), classes=CLASSES)
    assert alone[0][: int(1.5 * 2) + MARGIN] == padded[0][: int(1.5 * 2) + MARGIN]


def test_classes_beyond_the_target_vocabulary_are_never_said(model: layers.EncoderDecoder) -> None:
    found = beam_search(model, torch.tensor([[5, 6, 7]]), classes=CLASSES - 2)
    assert all(token < CLASSES - 2 for token in found[0])


def test_order_is_kept() -> None:
    task = task_of(TRANSLATION)
    model = build(MODEL.architecture("translation", task.vocab), seed=0)
    assert isinstance(model, layers.EncoderDecoder)
    data = load(CORPUS)
    pairs = list(data.test)  # type: ignore[union-attr]  # pairs, as the generated language has
    classes = data.target.size  # type: ignore[union-attr]  # as above
    forward = translate(model.eval(), pairs, classes=classes, device=torch.device("cpu"))
    backward = translate(model, pairs[::-1], classes=classes, device=torch.device("cpu"))
    assert forward == backward[::-1]


def test_bleu_is_100_for_the_references_and_near_0_for_an_untrained_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = task_of(TRANSLATION)
    model = build(MODEL.architecture("translation", task.vocab), seed=0)
    data = load(CORPUS)
    cpu = torch.device("cpu")
    assert bleu(model, data, device=cpu) < 10  # type: ignore[arg-type]  # an encoder-decoder and pairs
    assert model.training  # as it was
    monkeypatch.setattr(
        "empirical.train.decode.translate", lambda model, pairs, **_: [pair.target for pair in pairs]
    )
    assert bleu(model, data, device=cpu) == pytest.approx(100)  # type: ignore[arg-type]  # as above
