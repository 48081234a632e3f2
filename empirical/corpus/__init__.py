"""Corpora of the training experiments: generated, local files, Python's own texts; and batches."""

from empirical.corpus.batches import PairBatches as PairBatches
from empirical.corpus.language import generated as generated
from empirical.corpus.values import Pair as Pair
from empirical.corpus.values import Parallel as Parallel
from empirical.corpus.vocabulary import Vocabulary as Vocabulary

__all__ = ["Pair", "PairBatches", "Parallel", "Vocabulary", "generated"]
