"""Corpora of the training experiments: generated, local files, Python's own texts; and batches."""

from empirical.corpus.batches import PairBatches as PairBatches
from empirical.corpus.batches import TextBatches as TextBatches
from empirical.corpus.batches import padded as padded
from empirical.corpus.language import generated as generated
from empirical.corpus.masking import masked as masked
from empirical.corpus.parallel import parallel_files as parallel_files
from empirical.corpus.parallel import parallel_table as parallel_table
from empirical.corpus.text import plain_text as plain_text
from empirical.corpus.text import python_text as python_text
from empirical.corpus.values import Pair as Pair
from empirical.corpus.values import Parallel as Parallel
from empirical.corpus.values import Text as Text
from empirical.corpus.vocabulary import Vocabulary as Vocabulary

__all__ = [
    "Pair",
    "PairBatches",
    "Parallel",
    "Text",
    "TextBatches",
    "Vocabulary",
    "generated",
    "masked",
    "padded",
    "parallel_files",
    "parallel_table",
    "plain_text",
    "python_text",
]
