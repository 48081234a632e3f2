"""Translations by beam search, and their BLEU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from empirical import layers
from empirical.corpus import Pair, Parallel, Vocabulary, padded
from empirical.layers import Context
from meanfield.errors import InputError

BEAM = 4
ROWS = 64  # sentences translated at once
MARGIN = 10  # tokens that a translation may be longer than one and a half times its source


@torch.no_grad()
def beam_search(
    model: layers.EncoderDecoder, source: Tensor, *, classes: int, beam: int = BEAM
) -> list[tuple[int, ...]]:
    """Search for the translation of the largest mean log-probability.

        score = (1/n) sum_i log p(y_i | y_1 ... y_{i-1}, source),  n tokens with EOS

    At each length the ``beam`` most probable beginnings are kept; one that has ended keeps its place. What
    has not ended after 1.5 source tokens + `MARGIN` is cut off there, and taken where nothing has ended.

    Args:
        model: An encoder-decoder with a head.
        source: Ids, (rows, source tokens), padded with PAD.
        classes: Size of the target vocabulary, which may be smaller than the model's.
        beam: Beginnings kept.

    Returns:
        One translation a row, without special tokens.

    Source:
        vaswani2017, Sec. 6.1 (beam 4); the score is the mean, as fairseq's default.
    """
    rows, device = len(source), source.device
    real = source != Vocabulary.PAD
    memory = model.encoder.hidden(source, context=Context(real)).repeat_interleave(beam, 0)
    context = Context(None, memory, real.repeat_interleave(beam, 0))
    ids = torch.full((rows * beam, 1), Vocabulary.BOS, device=device)
    total = torch.full((rows, beam), float("-inf"), device=device)
    total[:, 0] = 0.0  # the beams start equal, so that one is enough
    ended = torch.zeros(rows, beam, dtype=torch.bool, device=device)
    length = torch.zeros(rows, beam, device=device)
    for _ in range(int(1.5 * source.shape[1]) + MARGIN):
        x = model.decoder.hidden(ids, context=context)[:, -1]  # (rows * beam, width)
        logp = model.head(x).float().log_softmax(-1).view(rows, beam, -1)
        logp[..., classes:] = float("-inf")
        logp[..., [Vocabulary.PAD, Vocabulary.BOS, Vocabulary.UNK, Vocabulary.MASK]] = float("-inf")
        stay = torch.full_like(logp[0, 0], float("-inf"))
        stay[Vocabulary.PAD] = 0.0
        logp = torch.where(ended[..., None], stay, logp)
        vocab = logp.shape[-1]
        total, best = (total[..., None] + logp).view(rows, -1).topk(beam)  # (rows, beam)
        origin, token = best // vocab, best % vocab
        ended, length = ended.gather(1, origin), length.gather(1, origin)
        length = length + ~ended
        ended = ended | (token == Vocabulary.EOS)
        flat = (origin + beam * torch.arange(rows, device=device)[:, None]).flatten()
        ids = torch.cat([ids[flat], token.view(-1, 1)], 1)
        if ended.all():
            break
    unended = ~ended & ended.any(1, keepdim=True)
    best = (total / length).masked_fill(unended, float("-inf")).argmax(1)
    chosen = ids.view(rows, beam, -1)[torch.arange(rows, device=device), best, 1:]
    return [_sentence(row) for row in chosen.tolist()]


def translate(
    model: layers.EncoderDecoder,
    pairs: Sequence[Pair],
    *,
    classes: int,
    device: torch.device,
    beam: int = BEAM,
) -> list[tuple[int, ...]]:
    """Translate the sources of pairs.

    Args:
        model: An encoder-decoder with a head.
        pairs: The pairs; their targets are not read.
        classes: As for `beam_search`.
        device: Where the model is.
        beam: As for `beam_search`.

    Returns:
        The translations in the order of the pairs.
    """
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index].source))
    found: dict[int, tuple[int, ...]] = {}
    for start in range(0, len(order), ROWS):
        chunk = order[start : start + ROWS]
        source = padded([pairs[index] for index in chunk])[0].to(device)
        found.update(zip(chunk, beam_search(model, source, classes=classes, beam=beam), strict=True))
    return [found[index] for index in range(len(pairs))]


def bleu(model: layers.EncoderDecoder, corpus: Parallel, *, device: torch.device, beam: int = BEAM) -> float:
    """BLEU of the test sentences.

    Args:
        model: An encoder-decoder with a head.
        corpus: The data; words of the generated language stand between spaces, other text is split into words
            as sacrebleu does by default (13a).
        device: Where the model is.
        beam: As for `beam_search`.

    Returns:
        BLEU, from 0 to 100.

    Raises:
        InputError: If sacrebleu is not installed.

    Source:
        papineni2002; post2018.
    """
    try:
        import sacrebleu
    except ModuleNotFoundError:
        raise InputError(
            "BLEU needs sacrebleu, which is not installed: pip install 'meanfield-transformers[train]'"
        ) from None
    training = model.training
    model.eval()
    classes = corpus.target.size
    ids = translate(model, corpus.test, classes=classes, device=device, beam=beam)
    found = [corpus.target.decode(sentence) for sentence in ids]
    model.train(training)
    wanted = [corpus.target.decode(pair.target) for pair in corpus.test]
    tokenize = "none" if corpus.name.startswith("generated") else "13a"
    return float(sacrebleu.corpus_bleu(found, [wanted], tokenize=tokenize, force=True).score)


def _sentence(ids: list[int]) -> tuple[int, ...]:
    end = ids.index(Vocabulary.EOS) if Vocabulary.EOS in ids else len(ids)
    return tuple(ids[:end])
