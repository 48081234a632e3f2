"""Configuration files of Hugging Face models, read as architecture values.

Nothing of `transformers` is imported: a configuration is a dictionary. Placement, norms, biases, scales and
initialisation were read in `transformers` 5.23 and are compared with its models in the tests.
"""

from meanfield.huggingface.families import FAMILIES as FAMILIES
from meanfield.huggingface.families import architecture as architecture
