"""What the GPU benchmark measures: numbers first, then speed, memory and an audit."""

# mypy does not type a lambda that binds its loop variables: the ignored [misc] of this file.
from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch

import empirical
from benchmarks.gpu_place import Chooser, Place, dense, dense_values, encoder, products_of, sampled_values
from benchmarks.gpu_runner import Note
from empirical.device import device_products, torch_device
from empirical.tables import environment as versions
from meanfield.weight_free import sample

WORST = 4.5  # standard errors of the largest of about 100 differences
EXACT = {"float32": 2e-4, "tf32": 5e-2}  # largest relative error of a squared norm, of the same numbers
Found = dict[str, Any]


def environment(place: Place, before: Found, note: Note) -> None:
    """Name the device, its driver and all versions."""
    for name, value in versions().items():
        note(name, value)
    where = torch_device(place.device)
    if where.type != "cuda":
        note("device", platform.processor() or platform.machine())
        return
    properties = torch.cuda.get_device_properties(where)
    note("device", properties.name)
    note("capability", f"{properties.major}.{properties.minor}")
    note("memory_gb", round(properties.total_memory / 1e9, 1))
    note("processors", properties.multi_processor_count)
    note("cuda", torch.version.cuda)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        note(
            "driver",
            subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        note("driver", f"unknown: {error}")


def best_products(place: Place, before: Found, note: Note) -> None:
    """Find the device's best rate of square matrix products, in TFLOP/s, in every precision."""
    sizes = (128, 256) if place.smoke else (4096, 8192)
    for dtype in (*place.precisions, "float64"):
        rates = []
        with device_products(dtype):
            for size in sizes:
                kind = torch.float64 if dtype == "float64" else torch.float32
                a, b = torch.randn(2, size, size, dtype=kind, device=place.device).unbind()
                times = [place.seconds(lambda a=a, b=b: torch.mm(a, b)) for _ in range(12)]  # type: ignore[misc]
                rates.append(2 * size**3 / statistics.median(times[2:]) / 1e12)
        note(dtype, round(max(rates), 4))


def host_and_device(place: Place, before: Found, note: Note) -> None:
    """Compare means of the host and the device, two draws of one law, and of a host that is 5 % wrong."""
    seeds = range(40 if place.smoke else 2000)
    arch = encoder(32, 2, vocab=40, dropout=0.1)
    how: dict[str, Any] = {"tokens": 6, "batch": 2, "loss": "cross_entropy"}
    for name in ("ensemble", "weight_free", "stream"):
        measure = getattr(empirical, name)
        some = range(len(seeds) // 4) if name == "stream" else seeds
        theirs, ours = (
            measure(arch, seeds=some, **how).df,
            measure(arch, seeds=some, device=place.device, **how).df,
        )
        if not place.cuda:  # the host again would be equal: another draw
            ours = measure(arch, seeds=range(10**6, 10**6 + len(some)), **how).df
        worst, wrong = (_distance(ours, theirs, factor) for factor in (1.0, 1.05))
        found = {"seeds": len(some), "parameters": len(ours), "worst_z": worst, "worst_z_if_wrong": wrong}
        found |= {"agrees": worst < WORST}
        if not place.smoke and name != "stream":  # too few seeds to tell
            found["sees_5_percent"] = wrong > WORST
        note(name, found)


def _distance(ours: pd.DataFrame, theirs: pd.DataFrame, factor: float) -> float:
    there = (theirs.grad_sq_hat > 1e-10 * theirs.grad_sq_hat.max()).to_numpy()  # a key's bias has none
    error = np.hypot(ours.grad_sq_hat_se, theirs.grad_sq_hat_se)
    z: pd.Series = (factor * ours.grad_sq_hat - theirs.grad_sq_hat) / error
    return round(float(z[there].abs().max()), 2)


def precision(place: Place, before: Found, note: Note) -> None:
    """Compare single precision and TF32 with double precision, on the same weights and inputs."""
    width, depth, tokens, seeds = (32, 2, 4, 4) if place.smoke else (512, 12, 32, 16)
    arch, how = encoder(width, depth), {"tokens": tokens}
    exact = dense_values(arch, place, "float64", range(seeds), **how)
    there = exact > 1e-12 * exact.max()
    for dtype in place.precisions:
        found = dense_values(arch, place, dtype, range(seeds), **how)
        error = np.abs(found / np.where(there, exact, 1) - 1)[there]
        always = there.all(0)
        bias = float(np.abs(found.mean(0)[always] / exact.mean(0)[always] - 1).max())
        values = {"largest": float(error.max()), "median": float(np.median(error)), "largest_of_means": bias}
        note(dtype, {**values, "small_enough": bool(error.max() < EXACT[dtype])})


def never_waits(place: Place, before: Found, note: Note) -> None:
    """Run passes while torch refuses whatever would wait for the device."""
    arch = encoder(64, 2, vocab=40, dropout=0.1)
    if not place.cuda:
        note("tried", "no: the host is no device; tests/empirical/test_backend.py proves it without one")
    how: dict[str, Any] = {"tokens": 8, "loss": "cross_entropy"}
    run = dense(arch, place, "float32", **how)
    backend = Chooser("float32", torch_device(place.device).type)
    for where in (run.backend, backend):
        where.host = _waiting(where.host)  # type: ignore[method-assign]  # of this one backend alone
    run(list(range(2)))  # libraries are loaded the first time
    sample(arch, seeds=range(2), backend=backend, **how)
    with _refusing(place):
        note("ensemble", bool(np.isfinite(run(list(range(16))).values).all()))
    with _refusing(place):
        found = sample(arch, seeds=range(16), backend=backend, **how)
        note("weight_free", all(bool(np.isfinite(values).all()) for values in found.values()))
    if place.cuda:
        with _refusing(place):
            try:
                torch.ones(1, device=place.device).item()
                note("sees_a_look", False)
            except RuntimeError:
                note("sees_a_look", True)


@contextmanager
def _refusing(place: Place) -> Iterator[None]:
    if not place.cuda:
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _waiting(host: Any) -> Any:
    """Let the host ask for results, and for them alone."""

    def asks(values: Any) -> Any:
        if not torch.cuda.is_available():
            return host(values)
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return host(values)
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    return asks


def weight_free(place: Place, before: Found, note: Note) -> None:
    """Sample without weights: seeds per second, by width and precision."""
    depth, tokens = (2, 4) if place.smoke else (12, 32)
    for width in (16, 32) if place.smoke else (512, 128, 1024):
        arch = encoder(width, depth)
        for dtype in place.precisions:
            place.forget()
            blocks: list[int] = []

            def work(n: int, arch: Any = arch, dtype: str = dtype, out: list[int] = blocks) -> None:
                out[:] = [sampled_values(arch, place, dtype, range(n), tokens=tokens)[1]]

            seeds = _enough(place, work, 256)
            took = min(place.seconds(lambda n=seeds, work=work: work(n)) for _ in range(2))  # type: ignore[misc]
            rate = {"seeds_per_s": round(seeds / took, 1), "seeds": seeds, "seconds": took}
            note(f"d={width}, {dtype}", {**rate, "at_once": blocks[0], "peak_gb": place.peak()})
    width = 32 if place.smoke else 512
    arch = encoder(width, depth)

    def table(n: int) -> None:
        empirical.weight_free(arch, tokens=tokens, seeds=range(n), device=place.device)

    seeds = _enough(place, table, 256)
    took = place.seconds(lambda: table(seeds))
    note(
        f"d={width}, with its table", {"seeds_per_s": round(seeds / took, 1), "seeds": seeds, "seconds": took}
    )


def _enough(place: Place, work: Callable[[int], Any], first: int) -> int:
    """Find how many seeds take about two seconds, once libraries are loaded."""
    first = 8 if place.smoke else first
    work(first)
    took = place.seconds(lambda: work(first))
    return first if place.smoke else int(min(max(first * 2.0 / took, first), 64 * first))


def ensembles(place: Place, before: Found, note: Note) -> None:
    """Measure with real weights: seeds per second, and the share of the best matrix products."""
    depth = 2 if place.smoke else 12
    cases = ((32, 4), (32, 8)) if place.smoke else (
        (512, 32), (128, 32), (1024, 32), (1024, 300), (1024, 1024), (2048, 512), (2048, 2048)
    )  # fmt: skip
    best = before.get("best_products", {})
    for width, tokens in cases:
        arch = encoder(width, depth)
        for dtype in place.precisions:
            place.forget()
            run = dense(arch, place, dtype, tokens=tokens)
            with device_products(dtype):
                most = _enough(place, lambda n, run=run: run(list(range(n))), 8)  # type: ignore[misc]
                took = min(place.seconds(lambda run=run, n=most: run(list(range(n)))) for _ in range(2))  # type: ignore[misc]
            rate = most / took * products_of(arch, tokens) / 1e12
            found: Found = {
                "seeds_per_s": round(most / took, 2),
                "seeds": most,
                "seconds": took,
                "at_once": run.at_once,
            }
            found |= {"tflops": round(rate, 4), "peak_gb": place.peak()}
            if dtype in best:
                found["share_of_best"] = round(rate / best[dtype], 4)
            note(f"d={width}, T={tokens}, {dtype}", found)


def seeds_at_once(place: Place, before: Found, note: Note) -> None:
    """Show what batches of seeds are good for: seeds per second of a small model, by seeds at once."""
    width, depth, tokens = (16, 2, 4) if place.smoke else (128, 12, 32)
    for block in (1, 4) if place.smoke else (1, 16, 128, 1024):
        seeds = 4 if place.smoke else max(16, block)
        run = dense(encoder(width, depth), place, "float32", tokens=tokens)
        run.at_once = block
        run(list(range(2)))
        took = place.seconds(lambda run=run, n=seeds: run(list(range(n))))  # type: ignore[misc]
        note(f"{block} at once", round(seeds / took, 1))


def memory_ends(place: Place, before: Found, note: Note) -> None:
    """Ask for more seeds at once than there is memory: they are halved until they fit."""
    width, depth, seeds = (16, 2, 8) if place.smoke else (1024, 12, 1024)
    run = dense(encoder(width, depth), place, "float32", tokens=8 if place.smoke else 64)
    asked = run.at_once = seeds
    if not place.cuda:
        note("tried", "no: the host has no memory of a device; tests/empirical/test_backend.py plants errors")
        run(list(range(seeds)))
    elif 4 * 12 * width**2 * depth * asked < 2 * torch.cuda.mem_get_info()[1]:  # 12 d^2 weights in a layer
        note("tried", "no: this device would hold them")
    else:
        values = run(list(range(seeds))).values
        note("asked_at_once", asked)
        note("at_once_in_the_end", run.at_once)
        note("finite", bool(np.isfinite(values).all()))
        note("halved", run.at_once < asked)


def streaming(place: Place, before: Found, note: Note) -> None:
    """Measure a deep and wide model in the memory of one layer."""
    cases = ((16, 6, 4),) if place.smoke else ((4096, 96, 2048), (512, 1000, 32))
    for width, depth, tokens in cases:
        for dtype in reversed(place.precisions):
            arch = encoder(width, depth)
            empirical.stream(encoder(width, 1), tokens=tokens, seeds=[1], device=place.device, dtype=dtype)
            place.forget()
            took = place.seconds(
                lambda arch=arch, dtype=dtype, tokens=tokens: empirical.stream(  # type: ignore[misc]
                    arch, tokens=tokens, seeds=[0], device=place.device, dtype=dtype
                )
            )
            rate = products_of(arch, tokens, forward=2) / took / 1e12
            found: Found = {"seconds": took, "peak_gb": place.peak(), "tflops": round(rate, 4)}
            note(f"d={width}, L={depth}, T={tokens}, {dtype}", found)


def audit(place: Place, before: Found, note: Note) -> None:
    """Audit a small GPT-2 of transformers on the device, and on the host."""
    try:
        from transformers import GPT2Config, GPT2Model
    except ImportError:
        note("tried", "no: transformers is not installed")
        return
    width, depth, seeds, samples = (16, 1, 4, 8) if place.smoke else (128, 4, 48, 128)
    config = GPT2Config(
        vocab_size=96,
        n_positions=32,
        n_embd=width,
        n_layer=depth,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    batch = torch.arange(16).reshape(2, 8)
    pages = {}
    for device in dict.fromkeys((place.device, "cpu")):
        took = place.seconds(
            lambda device=device: pages.update({  # type: ignore[misc]
                device: empirical.audit(
                    lambda seed: GPT2Model(config), batch, seeds=range(seeds), samples=samples, device=device
                )
            })
        )
        page = pages[device]
        note(device, {"seconds": took, "agrees": page.agrees, "tensors": len(page.df)})
    ours, theirs = pages[place.device].values, pages["cpu"].values
    there = theirs > 1e-10 * theirs.max()
    difference = float(np.abs(ours / np.where(there, theirs, 1) - 1)[there].max())
    note("largest_difference", difference)
    note("same_numbers", difference < 1e-3)
