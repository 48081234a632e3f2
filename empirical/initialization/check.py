"""`check_initialization`: which tensor of a module is drawn otherwise than its owner thinks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from torch import nn

from empirical.initialization import against, alone, embeddings, peers, placement, structure, values
from empirical.initialization.copies import cloned, copies
from empirical.initialization.expected import Expected, Stack, expected, laws
from empirical.initialization.family import LEVEL, family, findings
from empirical.initialization.finding import FAULTS, Finding
from empirical.initialization.items import Item, items_by_name, items_of
from empirical.initialization.report import InitializationCheck
from empirical.initialization.rows import rows
from empirical.initialization.sample import Sample, summarise
from empirical.initialization.shared import shared
from empirical.initialization.stacks import with_own_norm
from empirical.readers.reading import Reading, UnsupportedModuleError
from meanfield.errors import InputError, MissingRuleError, UnknownNameError
from meanfield.initialization import SCHEMES, Initialization


def check_initialization(
    module: nn.Module,
    scheme: str | Initialization | None = None,
    *,
    batch: object = None,
    reading: Reading | None = None,
) -> InitializationCheck:
    """Test every tensor of a module against a named scheme, and against its peers in other layers.

    Under a scheme the entries of a tensor are independent draws of one law. Its sample variance then has a
    known law, exact for normal entries; so have its mean, the variances of several layers beside each other,
    and the sums of squares of rows and columns. All tests of a module are one family: Holm's procedure keeps
    the share of right models of which any test fails at 1 %. Constants are compared exactly; layers and
    placement by their structure.

    Args:
        module: Any module.
        scheme: Name of a scheme, see `meanfield.initializations`, or one as a value; None compares tensors
            with each other alone.
        batch: A batch for the reader, which runs the module once; None lets it make one.
        reading: What a reader found, if it is there already.

    Returns:
        The check: a row for each tensor, faults, notes.

    Raises:
        UnknownNameError: If no scheme has that name.
        InputError: If the reader refuses the batch, or the module cannot be run though its tensors are in
        order.

    Example:
        >>> layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
        >>> check = check_initialization(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
        >>> [finding.kind for finding in check.findings]  # the constructor copies its layer
        ['cloned_layers']
    """
    name = _known(scheme)
    refusal: list[Finding] = []
    if reading is None:
        reading, refusal = _read(module, batch, name)
    reading = None if reading is None else with_own_norm(reading)
    everything = items_by_name(module) if reading is None else items_of(module, reading)
    faults, items = alone.broken(everything)
    samples = {item: summarise(item.entries(), _is_table(item)) for item in items}
    groups = copies(samples)
    later = {item for group in groups for item in group[1:]}
    stacks = laws(reading, scheme) if reading is not None and scheme is not None else []
    known = {item: e for item in samples if stacks and (e := expected(item, stacks)) is not None}
    own = {item: sample for item, sample in samples.items() if item not in later}
    tested = family(own, {item: e for item, e in known.items() if item in own})
    said = chain(
        faults,
        alone.left_out(module, items, reading is not None),
        alone.constants(samples),
        alone.types(items),
        shared(module, items, reading),
        cloned(groups, samples),
        _of_copies_too(findings(tested, name), groups),
        _constants_and_laws(samples, known, name),
        _structural(reading, stacks, samples, name),
        refusal,
    )
    ordered = sorted(
        said, key=lambda finding: list(FAULTS).index(finding.kind) if finding.kind in FAULTS else 0
    )
    found = tuple(finding for finding in ordered if finding.kind in FAULTS)
    notes = tuple(finding for finding in ordered if finding.kind not in FAULTS)
    table = rows(everything, samples, known, tested, (*found, *notes))
    return InitializationCheck(name or None, LEVEL, len(tested.tests), table, found, notes)


def _known(scheme: str | Initialization | None) -> str:
    """Name of the scheme; empty for none."""
    if scheme is None:
        return ""
    if isinstance(scheme, Initialization):
        return scheme.name
    if scheme not in SCHEMES:
        raise UnknownNameError("scheme", scheme, SCHEMES)
    return scheme


def _read(module: nn.Module, batch: object, scheme: str) -> tuple[Reading | None, list[Finding]]:
    """Read the module; a refusal becomes a finding, and so does any error if tensors are broken."""
    from empirical.readers import read_module

    try:
        return read_module(module, batch), []
    except (InputError, MissingRuleError, RuntimeError, TypeError) as error:
        of_the_module = isinstance(error, UnsupportedModuleError | MissingRuleError)
        broken, _ = alone.broken(items_by_name(module))
        if not (broken or of_the_module or (batch is None and isinstance(error, InputError))):
            raise
        compared = f"nothing was compared with {scheme}, and " if scheme else ""
        why = " ".join(str(error).split())
        message = f"{compared}layers were compared by the names of their tensors alone: {why}"
        part = error.module if isinstance(error, UnsupportedModuleError) else ""
        return None, [Finding("unread", (part,) if part else (), message)]


def _is_table(item: Item) -> bool:
    """Whether rows of zeros may be padding: nobody knows what a matrix is that no reading covers."""
    return item.kind == "table" or (item.key is None and item.matrix)


def _of_copies_too(said: Iterable[Finding], groups: list[list[Item]]) -> Iterator[Finding]:
    """Add the names of copies to what was found of the one that was tested."""
    copied = {group[0].label: [item.label for item in group] for group in groups}
    for finding in said:
        names = [name for label in finding.names for name in copied.get(label, [label])]
        yield replace(finding, names=tuple(dict.fromkeys(names)))


def _constants_and_laws(
    samples: dict[Item, Sample], known: dict[Item, Expected], scheme: str
) -> Iterator[Finding]:
    yield from against.constants(known, samples, scheme)
    yield from values.constants(samples, set(known))
    yield from against.laws(known, samples, scheme)
    yield from peers.laws({item: sample for item, sample in samples.items() if item not in known})


def _structural(
    reading: Reading | None, stacks: list[Stack], samples: dict[Item, Sample], scheme: str
) -> Iterator[Finding]:
    if reading is None:
        return
    differences = structure.differences(reading)
    yield from structure.apart(differences, reading)
    yield from placement.placement(reading, stacks, scheme, differences)
    yield from placement.last_norm(reading, samples)
    yield from list(embeddings.unscaled(stacks, samples, scheme)) or embeddings.drowned(reading, samples)
